"""The gate: every admission passes here. Policies are asked first, then the ledger decides.

Policies are asked outside the lock (they are user code) and their Plans are met; the arithmetic,
the latch, the queue and the hold are one step under it. Refusals are found root to leaf, so the
outermost scope answers. The gate never sleeps: it returns a Ticket, or names the scope that has
no room for the moment.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from budgetguard import notices
from budgetguard.admission import SECONDS, Grant, Short, decide, demand_of, keeps_reserve, lacking
from budgetguard.efforts.scale import THINKING_TOKENS, lower
from budgetguard.ladder import Choice, choose
from budgetguard.plan import EMPTY, End, Plan
from budgetguard.policy import State
from budgetguard.spend import METERS, TURNS
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
    scope.check_open()
    plans = [ask(each, call) for each in scope.answering]
    plan = EMPTY
    for each in plans:
        plan = plan & each
    choice = choose(scope, call, plan)
    with STORE.lock:
        loop = scope.loop(call.loop) if call.loop else None
        verdict = _decide(scope, call, plan, plans, loop, choice)
        if isinstance(verdict, Grant):
            short = _must_wait(scope, verdict, loop, waiter)
            if short is not None:
                if waiter is not None:
                    waiter.join(short.scope.account)
                return short
            ticket = _commit(scope, call, plan, plans, verdict, loop, choice, owner)
        else:
            _latch(scope, verdict)
    if isinstance(verdict, Ended):
        raise notices.refusal(scope, call, verdict.short, verdict.end)
    notices.admitted(ticket, verdict, plan)
    for each in scope.observers:
        _observe(each, call, loop, choice)
    return ticket


def ask(scope: Scope, call: Call) -> Plan:
    """What the policy of one scope says about a call, with the effort that the task is latched to.

    Raises:
        TypeError: If the policy returns something that is not a Plan.
    """
    account, standing = scope.account, scope.standing
    settled, held = account.settled, account.held
    state = State(
        scope.budget,
        call,
        settled=settled,
        held=held,
        elapsed=scope.elapsed(),
        turn=settled[TURNS] + held[TURNS] + 1,
        difficulty=scope.difficulty,
        effort=standing.effort,
        rung=standing.rung,
    )
    plan = scope.policy(state)
    if type(plan) is not Plan:
        msg = f"the policy of budget {scope.budget.name!r} must return a Plan, not {plan!r}"
        raise TypeError(msg)
    latched = standing.effort
    if latched is None:
        return plan
    keeps = standing.lowered and scope.lowers_once
    effort = latched if keeps else lower(latched, plan.effort)
    return plan if effort == plan.effort else plan._replace(effort=effort)


def _decide(  # noqa: PLR0913 -- the call, what was planned for it, and where it runs
    scope: Scope, call: Call, plan: Plan, plans: list[Plan], loop: Loop | None, choice: Choice
) -> Grant | Ended:
    standing = scope.standing
    owed = loop is not None and not loop.granted
    if standing.latched is not None and not (
        owed and loop is not None and any(loop.keeps_in(each) for each in scope.accounts)
    ):
        short, end = standing.latched
        return Ended(short, _end_for(short.scope, loop, end))
    if loop is not None and loop.granted:
        return Ended(_fullest(scope), scope.end)
    last = owed and (plan.final or standing.latched is not None)
    if not last:
        for each, said in zip(scope.answering, plans, strict=True):
            if said.end is not None:
                return Ended(_fullest(each), said.end)
    return _fit(scope, call, plan, loop, choice, last=last)


def _fit(  # noqa: PLR0913 -- the call, what was planned for it, and where it runs
    scope: Scope, call: Call, plan: Plan, loop: Loop | None, choice: Choice, *, last: bool
) -> Grant | Ended:
    """An ordinary call if one fits, else the last one where it is owed, else the ending."""
    late = _past_deadline(scope)
    if late is not None:
        return Ended(late, late.scope.end)
    demand = demand_of(call, plan, loop, choice, final=last)
    verdict = decide(demand, scope.answering, last=last)
    if isinstance(verdict, Grant):
        return verdict
    if not last and loop is not None and _owes(verdict.scope, loop):
        demand = demand_of(call, plan, loop, choice, final=True)
        final = decide(demand, scope.answering, last=True)
        if isinstance(final, Grant):
            return final
        verdict = final
    if last and plan.end is not None:
        return Ended(verdict, plan.end)
    return Ended(verdict, _end_for(verdict.scope, loop, verdict.scope.end))


def _owes(scope: Scope, loop: Loop) -> bool:
    """Whether that scope owes this loop a last call."""
    return not loop.granted and keeps_reserve(scope, loop)


def _end_for(scope: Scope, loop: Loop | None, end: End) -> End:
    """Inside another loop that is still owed its last call, an ending is quiet."""
    inner = scope.owes_last_call and bool(scope.account.reserves)
    if inner and (loop is None or not loop.is_outermost(scope.account)):
        return "stop"
    return end


def _past_deadline(scope: Scope) -> Short | None:
    now = time.monotonic()
    for each in scope.answering:
        if now >= each.deadline:
            return Short(each, SECONDS)
    return None


def _fullest(scope: Scope) -> Short:
    """The meter of a scope that is nearest to its limit."""
    settled = scope.account.settled
    used = [(settled[meter] / limit, meter) for meter, limit in scope.budget.held_limits]
    if scope.budget.seconds is not None:
        used.append((scope.elapsed() / scope.budget.seconds, SECONDS))
    return Short(scope, max(used)[1] if used else TURNS)


def _must_wait(
    scope: Scope, grant: Grant, loop: Loop | None, waiter: Waiter | None
) -> Short | None:
    """The outermost scope where others wait already, or where calls in flight hold the room."""
    blocked = lacking(grant, scope.answering, loop)
    for each in scope.answering:
        if blocked is not None and blocked.scope is each:
            return blocked
        queue = each.account.waiters
        if queue and queue[0] is not waiter:
            return _fullest(each)
    return None


def _commit(  # noqa: PLR0913 -- everything that was decided about the call
    scope: Scope,
    call: Call,
    plan: Plan,
    plans: list[Plan],
    grant: Grant,
    loop: Loop | None,
    choice: Choice,
    owner: object,
) -> Ticket:
    """Hold what was granted on the whole lineage, and latch what was decided."""
    for account in scope.accounts:
        account.hold(grant.need)
    for each, said in zip(scope.answering, plans, strict=True):
        each.standing.latch_effort(said.effort)
        each.standing.rung = choice.rung
        each.standing.calls += 1
    if loop is not None and grant.final:
        loop.granted = True
        loop.drop()
        scope.standing.latched = _fullest(scope), scope.end
    elif loop is not None:
        for account, reserve in grant.reserves:
            loop.keep(account, reserve)
    cap = grant.cap if scope.sends_cap or plan.max_output_tokens is not None else None
    said = Plan(plan.effort, _thinking(plan), cap, choice.rung, grant.final, None)
    ticket = Ticket(
        f"{scope.id}-{next(_call_ids)}",
        scope,
        call,
        said,
        model=choice.model,
        need=grant.need,
        rates=choice.price,
        loop=loop,
        accounts=scope.accounts,
        owner=owner,
    )
    STORE.in_flight.add(ticket)
    return ticket


def _thinking(plan: Plan) -> int | None:
    """The thinking budget of a Plan, which its effort bounds too."""
    by_effort = None if plan.effort is None else THINKING_TOKENS[plan.effort]
    if plan.thinking_tokens is None or by_effort is None:
        return by_effort if plan.thinking_tokens is None else plan.thinking_tokens
    return min(by_effort, plan.thinking_tokens)


def _latch(scope: Scope, ended: Ended) -> None:
    if scope.standing.latched is None:
        scope.standing.latched = ended


def _observe(scope: Scope, call: Call, loop: Loop | None, choice: Choice) -> None:
    """Tell what a scope in shadow mode would have decided about a call that was admitted."""
    plan = ask(scope, call)
    with STORE.lock:
        demand = demand_of(call, plan, loop, choice)
        verdict = decide(demand, (scope,), last=False)
    if plan.end is None and isinstance(verdict, Grant):
        notices.observed(scope, call, plan, in_loop=loop is not None)
    elif isinstance(verdict, Short) and loop is not None and scope.owes_last_call:
        notices.decided(
            scope, "finish", METERS[verdict.meter], asked=call.model, used=call.model, observed=True
        )
    else:
        short = verdict if isinstance(verdict, Short) else _fullest(scope)
        decision = "stop" if (plan.end or scope.end) == "stop" else "refuse"
        notices.decided(
            scope, decision, METERS[short.meter], asked=call.model, used=None, observed=True
        )
