"""The arithmetic of admission: pure decisions over the accounts of a lineage, under one lock.

What a call needs is linear in its output cap, so the largest cap that fits is found by division,
not by search. A cap shrinks only to what is *settled*; what is merely *held* by calls in flight
is waited for, because holding is not spending.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from budgetguard.efforts.scale import THINKING_TOKENS
from budgetguard.efforts.steering import ANSWER_HEADROOM
from budgetguard.spend import (
    INPUT,
    METERS,
    OUTPUT,
    PICO_PER_NANO,
    REASONING,
    TOKENS,
    USD,
    ZERO,
    Vector,
    plus,
)
from budgetguard.stores.shares import kept_for_others

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgetguard.call import Call
    from budgetguard.forecast import Outputs
    from budgetguard.ladder import Choice
    from budgetguard.loops import Loop
    from budgetguard.plan import Plan
    from budgetguard.scope import Scope
    from budgetguard.stores.memory import Account

ANSWER_ROOM: Final = 4_096
"""Output cap, in tokens, of a call whose caller set none, before room for thinking is added.

Our own choice, until the forecast knows better: recorded chat answers stay below 1.8k tokens at the
99th percentile, agent turns below 0.7k at the 95th.
"""

LEAST_OUTPUT: Final = 32
"""An output cap below this many tokens is not worth a call, unless the caller asked for it."""

CLOSING_TOKENS: Final = 64
"""Input that the instruction of a last call adds, upper estimate in tokens."""

SECONDS: Final = METERS.index("seconds")

_PLENTY: Final = 1 << 62


@dataclass(slots=True)
class Demand:
    """What a call needs, as a function of its output cap."""

    input_tokens: int
    n: int
    thinking: int
    input_rate: int
    """Pico-dollars per input token, the dearest that can apply."""
    output_rate: int
    later_rates: tuple[int, int]
    """The same two for one last call after this one, whose input is longer."""
    request: int
    """Nano-dollars a call costs on top of its tokens."""
    want: int
    """The output cap it should get if there is room."""
    least: int
    """The output cap below which it is not worth making."""
    loop: Loop | None

    def need(self, cap: int) -> Vector:
        """What is held for this call at that output cap."""
        output = cap * self.n
        sent = self.input_tokens
        pico = sent * self.input_rate + output * self.output_rate
        thinking = min(self.thinking, cap) * self.n
        return (sent + output, sent, output, thinking, 1, self.request - (-pico // PICO_PER_NANO))

    def reserve(self, cap: int, answer_tokens: int) -> Vector:
        """What one last call of the same loop would need after this one."""
        growth = self.loop.growth if self.loop is not None else 0
        sent = self.input_tokens + cap + growth + CLOSING_TOKENS
        pico = sent * self.later_rates[0] + answer_tokens * self.later_rates[1]
        nano = self.request - (-pico // PICO_PER_NANO)
        return (sent + answer_tokens, sent, answer_tokens, 0, 1, nano)

    def largest_cap(self, meter: int, room: int) -> int:
        """The largest output cap whose need fits into `room`; negative when none does."""
        sent, n = self.input_tokens, self.n
        if meter == TOKENS:
            return (room - sent) // n
        if meter == USD:
            left = (room - self.request) * PICO_PER_NANO - sent * self.input_rate
            rate = self.output_rate * n
            return left // rate if rate else _PLENTY if left >= 0 else -1
        if meter == OUTPUT:
            return room // n
        if meter == REASONING:
            return _PLENTY if self.thinking * n <= room else room // n
        fits = room >= (sent if meter == INPUT else 1)
        return _PLENTY if fits else -1

    def largest_cap_before_last(self, meter: int, room: int, answer_tokens: int) -> int:
        """The largest output cap with which this call and one last call after it fit."""
        room -= self.reserve(0, answer_tokens)[meter]
        if meter == TOKENS:
            return (room - self.input_tokens) // (self.n + 1)
        if meter == INPUT:
            return room - self.input_tokens
        if meter == USD:
            room -= self.request + 2  # each of the two holds may be rounded up
            left = room * PICO_PER_NANO - self.input_tokens * self.input_rate
            rate = self.output_rate * self.n + self.later_rates[0]
            return left // rate if rate else _PLENTY if left >= 0 else -1
        return self.largest_cap(meter, room)


class Short(NamedTuple):
    """A scope and the meter on which it has no room."""

    scope: Scope
    meter: int
    """Index into `METERS`."""
    needed: int = 0


class Grant(NamedTuple):
    """A call that fits."""

    cap: int
    need: Vector
    final: bool
    reserves: tuple[tuple[Account, Vector], ...] = ()
    bound_by: int | None = None
    """The meter that made the cap smaller than wished, or this call the last."""
    wish: int = 0
    """The cap it should have got if there were room."""


def demand_of(
    plan: Plan,
    loop: Loop | None,
    choice: Choice,
    outputs: Outputs | None = None,
    *,
    final: bool = False,
) -> Demand:
    """What a call needs under `plan`, with the model that was chosen for it.

    Args:
        plan: What it may do.
        loop: The agent loop it is in.
        choice: The model, its price, and the call as that model sees it.
        outputs: What is known of the answers to such calls; `None`: nothing, or no such call.
        final: Whether it is the last call of its loop, which is not one of those.
    """
    call = choice.call
    thinking = _planned_thinking(call, plan) if call.thinks else 0
    want = call.max_output_tokens or ANSWER_ROOM + thinking
    if outputs is not None and not final:
        want = outputs.cap(want)
        if thinking:
            if call.thinking_tokens is not None:  # a budget that a smaller cap would lower
                want = max(want, thinking + ANSWER_HEADROOM)
            thinking = outputs.reasoning(thinking)
    for bound in (plan.max_output_tokens, call.model_max_output):
        if bound is not None and bound < want:
            want = bound
    sent = call.input_tokens + (CLOSING_TOKENS if final else 0)
    price, rates = choice.price, choice.rates
    later = rates
    if loop is not None and price is not None:
        rates = price.dearest(sent)
        later = price.dearest(sent + want + loop.growth + CLOSING_TOKENS)
    request = 0 if price is None else price.request
    least = min(LEAST_OUTPUT, want)
    return Demand(sent, call.n, thinking, *rates, later, request, want, least, loop)


def decide(demand: Demand, scopes: Sequence[Scope], *, last: bool) -> Grant | Short:
    """Find the largest output cap that fits every scope, root first, by what is settled.

    Args:
        demand: What the call needs.
        scopes: The scopes that answer, root first.
        last: Whether this is the last call of its loop, and may use what the loop kept back.
    """
    loop = demand.loop
    floor = demand.least
    if loop is not None and not last:
        floor = max(floor, min(demand.want, loop.largest_output))
    cap, bound_by = demand.want, None
    keepers: list[Scope] | None = None
    for scope in scopes:
        keeps = loop is not None and not last and keeps_reserve(scope, loop)
        fits, meter = _cap_in(demand, scope, keeps=keeps)
        if fits < floor:
            return Short(scope, meter, demand.need(floor)[meter])
        if fits < cap:
            cap, bound_by = fits, meter
        if keeps:
            keepers = [*(keepers or ()), scope]
    if keepers is None:
        return Grant(cap, demand.need(cap), last, (), bound_by, demand.want)
    reserves = [(each.account, demand.reserve(cap, each.budget.answer_tokens)) for each in keepers]
    return Grant(cap, demand.need(cap), last, tuple(reserves), bound_by, demand.want)


def fits_outright(demand: Demand, scope: Scope) -> Grant | None:
    """The whole wish, if all have room for it beside what is held, reserved or queued.

    Where it answers, `decide` and `lacking` would say the same; it is only quicker.
    """
    cap, loop = demand.want, demand.loop
    need = demand.need(cap)
    reserves: tuple[tuple[Account, Vector], ...] = ()
    for each in scope.lineage.answering:
        account = each.account
        if account.waiters:
            return None
        taken = plus(account.settled, account.held)
        if account.reserves or account.shares or account.elsewhere is not ZERO:
            taken = plus(taken, _others(account, loop))
            taken = plus(taken, kept_for_others(account, scope.lineage.accounts))
        total = need
        if loop is not None and keeps_reserve(each, loop):
            reserve = demand.reserve(cap, each.budget.answer_tokens)
            reserves = (*reserves, (account, reserve))
            total = plus(need, reserve)
        for meter, limit in each.held_limits:
            if taken[meter] + total[meter] > limit:
                return None
    return Grant(cap, need, final=False, reserves=reserves, wish=cap)


def keeps_reserve(scope: Scope, loop: Loop) -> bool:
    """Whether a last call of that loop is owed by that scope, and kept back for."""
    return scope.owes_last_call and loop.is_outermost(scope.account)


def _cap_in(demand: Demand, scope: Scope, *, keeps: bool) -> tuple[int, int]:
    """The largest output cap that fits a scope by what is settled, and the meter that says so."""
    account = scope.account
    settled = account.settled
    others = _others(account, demand.loop)
    cap, bound_by = _PLENTY, 0
    for meter, limit in scope.held_limits:
        room = limit - settled[meter] - others[meter]
        if keeps:
            fits = demand.largest_cap_before_last(meter, room, scope.budget.answer_tokens)
        else:
            fits = demand.largest_cap(meter, room)
        if fits < cap:
            cap, bound_by = fits, meter
    return cap, bound_by


def lacking(grant: Grant, scope: Scope, loop: Loop | None) -> Short | None:
    """The outermost scope in which there is no room for the grant now.

    Because of what calls in flight hold, or of what is kept for other children.
    """
    reserves = dict(grant.reserves) if grant.reserves else {}
    for each in scope.lineage.answering:
        account = each.account
        taken = plus(plus(account.settled, account.held), _others(account, loop))
        if account.shares:
            taken = plus(taken, kept_for_others(account, scope.lineage.accounts))
        extra = reserves.get(account, ZERO)
        for meter, limit in each.held_limits:
            needed = grant.need[meter] + extra[meter]
            if needed > limit - taken[meter]:
                return Short(each, meter, needed)
    return None


def _others(account: Account, loop: Loop | None) -> Vector:
    if not account.reserves and account.elsewhere is ZERO:
        return ZERO
    return account.reserved_for_others(None if loop is None else loop.id)


def _planned_thinking(call: Call, plan: Plan) -> int:
    """Thinking tokens this call may use: the caller's budget, else by the effort in force."""
    planned = THINKING_TOKENS[call.effort_under(plan.effort) or "medium"]
    if call.thinking_tokens is not None:
        planned = (
            call.thinking_tokens if plan.effort is None else min(planned, call.thinking_tokens)
        )
    return planned if plan.thinking_tokens is None else min(planned, plan.thinking_tokens)
