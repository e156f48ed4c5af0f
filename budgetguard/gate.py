"""The gate: every admission passes here. Policies are asked first, then the ledger decides.

Policies are asked outside the lock (they are user code) and their Plans are met; the arithmetic,
the latch, the queue and the hold are one step under it. Refusals are found root to leaf, so the
outermost scope answers. The gate never sleeps: it returns a Ticket, or names the scope that has
no room for the moment.

One admission, step by step: `Scope.admit` -> `attempt` here -> `ask` each policy (policy, rules,
state) -> `choose` a model and its price (ladder, pricing) -> `demand_of` the call (admission) ->
`decide` by the accounts (admission, loops, stores) -> hold and latch (`_Case.commit`, standing) ->
tell (notices, events) -> a Ticket; or wait (waiting), or end (ending, errors).
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from budgetguard import notices
from budgetguard.admission import (
    SECONDS,
    Grant,
    Short,
    decide,
    demand_of,
    fits_outright,
    keeps_reserve,
    lacking,
)
from budgetguard.efforts.scale import THINKING_TOKENS, lower
from budgetguard.ladder import choose
from budgetguard.plan import EMPTY, End, Plan
from budgetguard.policy import planned
from budgetguard.spend import METERS, TURNS
from budgetguard.state import State
from budgetguard.stores.memory import STORE
from budgetguard.ticket import Ticket

if TYPE_CHECKING:
    from budgetguard.call import Call
    from budgetguard.loops import Loop
    from budgetguard.scope import Scope
    from budgetguard.waiting import Waiter

_call_ids: Final = itertools.count(1)


class Ended(NamedTuple):
    """The budget of this scope ends here."""

    short: Short
    end: End


def attempt(
    scope: Scope, call: Call, owner: object, waiter: Waiter | None = None
) -> Ticket | Short:
    """Admit a call now, or say which scope lacks room for the moment (and queue the waiter there).

    Raises:
        BudgetExceeded: If the call is refused, here and now.
        UnpricedModelError: If a usd limit answers and the model has no price.
        ScopeClosed: If the scope, or one above it, is closed.
    """
    if call.input_tokens < 0 or call.n < 1:
        msg = f"a call cannot have {call.input_tokens} input tokens and {call.n} completions"
        raise ValueError(msg)
    if not scope.lineage.billed:
        return Ticket.free(scope, call)
    case = _Case(scope, call)
    ticket: Ticket | None = None
    with STORE.lock:
        scope.check_open()
        case.loop = scope.loops.at(call.loop, scope) if call.loop else None
        outright = case.outright()
        verdict = outright or case.decide()
        if isinstance(verdict, Grant):
            short = case.must_wait(verdict, waiter, owner) if outright is None else None
            if short is not None:
                if waiter is not None:
                    waiter.join(short.scope.account)
                return short
            ticket = case.commit(verdict, owner)
        elif scope.standing.latched is None:
            scope.standing.latched = verdict.short, verdict.end
    if isinstance(verdict, Ended):
        raise notices.refusal(scope, call, verdict.short, verdict.end)
    assert ticket is not None  # noqa: S101 -- a Grant was committed
    try:
        notices.admitted(ticket, verdict, case.plan)
        for each in scope.lineage.observers:
            _observe(each, case)
    except BaseException:  # an interrupt: nobody will ever have this ticket
        ticket.release()
        raise
    return ticket


def ask(scope: Scope, call: Call) -> Plan:
    """What the policy of one scope says about a call, with the effort that the task is latched to.

    Raises:
        TypeError: If the policy returns something that is not a Plan.
    """
    account, standing = scope.account, scope.standing
    if scope.is_quiet():
        return EMPTY
    settled, held = account.settled, account.held
    state = State(
        scope.budget,
        call,
        settled=settled,
        held=held,
        elapsed=scope.elapsed(),
        turn=settled[TURNS] + held[TURNS] + 1,
        difficulty=scope.estimation.difficulty,
        effort=standing.effort,
        rung=standing.rung,
    )
    plan = planned(state)
    latched = standing.effort
    if latched is None:
        return plan
    keeps = standing.lowered and scope.budget.lowers_once
    effort = latched if keeps else lower(latched, plan.effort)
    return plan if effort == plan.effort else plan._replace(effort=effort)


class _Case:
    """One call to be decided, and everything that is known about it."""

    __slots__ = ("call", "choice", "loop", "plan", "plans", "scope")

    def __init__(self, scope: Scope, call: Call) -> None:
        """Ask every policy of the lineage; no lock is held."""
        self.scope = scope
        self.call = call
        self.loop: Loop | None = None
        self.plans = [ask(each, call) for each in scope.lineage.answering]
        plan = EMPTY
        for each in self.plans:
            if each is not EMPTY:
                plan = plan & each
        self.plan = plan
        self.choice = choose(scope, call, plan)

    def outright(self) -> Grant | None:
        """The short way for what nearly every call is: nothing planned, nothing near a limit."""
        scope = self.scope
        if self.plan is not EMPTY or scope.standing.latched is not None:
            return None
        if scope.lineage.has_deadline or (self.loop is not None and self.loop.granted):
            return None
        demand = demand_of(self.choice.call, EMPTY, self.loop, self.choice)
        return fits_outright(demand, scope.lineage.answering)

    def decide(self) -> Grant | Ended:
        """Grant the call by what is settled, as an ordinary or as a last one, or end the budget."""
        scope, loop, latched = self.scope, self.loop, self.scope.standing.latched
        if latched is not None and not self._is_owed_its_last():
            return Ended(latched[0], self._end_in(latched[0].scope, latched[1]))
        if loop is not None and loop.granted:
            return Ended(fullest(scope), scope.end)
        last = loop is not None and (self.plan.final or latched is not None)
        if self.plan.end is not None and not last:
            for each, said in zip(scope.lineage.answering, self.plans, strict=True):
                if said.end is not None:
                    return Ended(fullest(each), said.end)
        late = _past_deadline(scope)
        return self._fit(last=last) if late is None else Ended(late, late.scope.end)

    def _fit(self, *, last: bool) -> Grant | Ended:
        """An ordinary call if one fits, else the last one where it is owed, else the ending."""
        verdict = self._decide(last=last)
        if isinstance(verdict, Grant):
            return verdict
        if not last and self._owes(verdict.scope):
            final = self._decide(last=True)
            if isinstance(final, Grant):
                return final._replace(bound_by=verdict.meter)
            verdict = final
        if last and self.plan.end is not None:
            return Ended(verdict, self.plan.end)
        return Ended(verdict, self._end_in(verdict.scope, verdict.scope.end))

    def _decide(self, *, last: bool) -> Grant | Short:
        demand = demand_of(self.choice.call, self.plan, self.loop, self.choice, final=last)
        return decide(demand, self.scope.lineage.answering, last=last)

    def _is_owed_its_last(self) -> bool:
        """Whether the call's loop keeps a last call back, which no latch takes from it."""
        loop = self.loop
        if loop is None or loop.granted:
            return False
        return any(loop.keeps_in(each) for each in self.scope.lineage.accounts)

    def _owes(self, scope: Scope) -> bool:
        """Whether that scope owes the call's loop a last call."""
        return self.loop is not None and not self.loop.granted and keeps_reserve(scope, self.loop)

    def _end_in(self, scope: Scope, end: End) -> End:
        """Inside another loop that is still owed its last call, an ending is quiet."""
        inner = scope.owes_last_call and bool(scope.account.reserves)
        if inner and (self.loop is None or not self.loop.is_outermost(scope.account)):
            return "stop"
        return end

    def must_wait(self, grant: Grant, waiter: Waiter | None, owner: object) -> Short | None:
        """The outermost scope where others wait already, or where calls in flight hold the room.

        Who holds a ticket passes the queue, because those in it may be waiting for him.
        """
        blocked = lacking(grant, self.scope.lineage.answering, self.loop)
        for each in self.scope.lineage.answering:
            if blocked is not None and blocked.scope is each:
                return blocked
            first = each.account.first_in_line() if each.account.waiters else None
            if first not in (None, waiter) and not STORE.holds(owner, each.account):
                return fullest(each)
        return None

    def commit(self, grant: Grant, owner: object) -> Ticket:
        """Hold what was granted on the whole lineage, and latch what was decided."""
        scope, plan, rung = self.scope, self.plan, self.choice.rung
        for account in scope.lineage.accounts:
            account.hold(grant.need)
        for each, said in zip(scope.lineage.answering, self.plans, strict=True):
            each.standing.admit(said.effort, rung)
        if grant.final or grant.reserves:
            self._keep_or_grant(grant)
        caps = scope.lineage.sends_cap or plan.max_output_tokens is not None
        cap = grant.cap if caps else None
        said = Plan(plan.effort, _thinking(plan), cap, rung, grant.final, None)
        ticket = Ticket(
            next(_call_ids), scope, self.call, said, self.choice.model, grant.need,
            self.choice.price, self.loop, scope.lineage.accounts, owner,
        )  # fmt: skip
        STORE.in_flight.add(ticket)
        return ticket

    def _keep_or_grant(self, grant: Grant) -> None:
        loop = self.loop
        if loop is None:
            return
        if grant.final:
            loop.grant()
            if self.scope.standing.latched is None:
                self.scope.standing.latched = fullest(self.scope), self.scope.end
                self.scope.standing.latched_by = loop
        for account, reserve in grant.reserves:
            loop.keep(account, reserve)


def fullest(scope: Scope) -> Short:
    """The meter of a scope that is nearest to its limit."""
    settled = scope.account.settled
    used = [(settled[meter] / limit, meter) for meter, limit in scope.budget.held_limits]
    if scope.budget.seconds is not None:
        used.append((scope.elapsed() / scope.budget.seconds, SECONDS))
    return Short(scope, max(used)[1] if used else TURNS)


def _past_deadline(scope: Scope) -> Short | None:
    now = time.monotonic()
    for each in scope.lineage.answering:
        if now >= each.deadline:
            return Short(each, SECONDS)
    return None


def _thinking(plan: Plan) -> int | None:
    """The thinking budget of a Plan, which its effort bounds too."""
    if plan.effort is None:
        return plan.thinking_tokens
    by_effort = THINKING_TOKENS[plan.effort]
    return by_effort if plan.thinking_tokens is None else min(by_effort, plan.thinking_tokens)


def _observe(scope: Scope, case: _Case) -> None:
    """Tell what a scope in shadow mode would have decided about a call that was admitted."""
    try:
        plan = ask(scope, case.call)
    except Exception as error:  # noqa: BLE001 -- observation never hurts
        notices.shadow_failed(scope, error)
        return
    with STORE.lock:
        demand = demand_of(case.choice.call, plan, case.loop, case.choice)
        verdict = decide(demand, (scope,), last=False)
    if plan.end is None and isinstance(verdict, Grant):
        notices.observed(scope, case.call, plan, in_loop=case.loop is not None)
        return
    short = verdict if isinstance(verdict, Short) else fullest(scope)
    finishes = plan.end is None and case.loop is not None and scope.owes_last_call
    decision = "stop" if (plan.end or scope.end) == "stop" else "refuse"
    notices.decided(
        scope,
        "finish" if finishes else decision,
        METERS[short.meter],
        asked=case.call.model,
        used=case.call.model if finishes else None,
        observed=True,
    )
