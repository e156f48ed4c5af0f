"""What is told of an admission: the events, the outcome of the task, the refusal's numbers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from budgetguard import events
from budgetguard.admission import SECONDS, Grant, Short
from budgetguard.errors import BudgetBusy, BudgetExceeded, BudgetStopped
from budgetguard.spend import METERS, TOKENS, TURNS, USD, public_amount, usd

if TYPE_CHECKING:
    from budgetguard.call import Call
    from budgetguard.efforts import Effort
    from budgetguard.plan import End, Plan
    from budgetguard.scope import Scope
    from budgetguard.ticket import Ticket

_log = logging.getLogger("budgetguard")
_failed: set[str] = set()
_E = TypeVar("_E", bound=BudgetExceeded)


def refusal(scope: Scope, call: Call, short: Short, end: End) -> BudgetExceeded:
    """Record that `scope` was refused a call by `short.scope`, and make the error that says so."""
    kind = BudgetStopped if end == "stop" else BudgetExceeded
    reason = "" if _is_full(short) or short.needed else "as its policy says"
    error = _error(kind, short, reason)
    standing = scope.standing
    if end == "stop":
        standing.stopped = True
    else:
        _note_refused(scope, short.scope, error)
    decided(
        scope,
        "stop" if end == "stop" else "refuse",
        METERS[short.meter] if not reason else "policy",
        asked=call.model,
        used=None,
    )
    return error


def busy(scope: Scope, short: Short, reason: str) -> BudgetBusy:
    """Record that `scope` could not wait for room in `short.scope`, and make the error."""
    error = _error(BudgetBusy, short, reason)
    _note_refused(scope, short.scope, error)
    decided(scope, "refuse", METERS[short.meter], asked=None, used=None)
    return error


def admitted(ticket: Ticket, grant: Grant, plan: Plan) -> None:
    """Record what was decided about an admitted call."""
    scope, call, standing = ticket.scope, ticket.call, ticket.scope.standing
    if ticket.plan.rung:
        standing.degraded = True
    if grant.final:
        standing.finished = True
    effort = call.effort_under(plan.effort)
    standing.degraded = standing.degraded or effort != call.effort
    if not events.listening():
        return
    _tell_changes(ticket, grant, plan, effort)
    events.emit(
        events.Admitted(
            path=scope.path,
            scope_id=scope.id,
            call_id=ticket.call_id,
            model=ticket.model,
            turn=scope.account.settled[TURNS] + scope.account.held[TURNS],
            effort=effort,
            max_output_tokens=ticket.plan.max_output_tokens,
            held_tokens=ticket.need[TOKENS],
            held_usd=usd(ticket.need[USD]),
            final=grant.final,
        )
    )


def _tell_changes(ticket: Ticket, grant: Grant, plan: Plan, effort: Effort | None) -> None:
    scope, call, standing = ticket.scope, ticket.call, ticket.scope.standing
    if effort not in (call.effort, standing.told_effort):
        standing.told_effort = effort
        known = scope.difficulty.confidence > 0
        reason = "difficulty" if known and not scope.account.settled[TOKENS] else "policy"
        decided(scope, "effort", reason, asked=call.effort, used=effort)
    if plan.rung and standing.told_rung != max(ticket.plan.rung, 1):
        standing.told_rung = max(ticket.plan.rung, 1)
        decided(scope, "downgrade", "policy", asked=call.model, used=ticket.model)
    because = "policy" if grant.bound_by is None else METERS[grant.bound_by]
    cap, asked = ticket.plan.max_output_tokens, call.max_output_tokens
    if cap is not None and cap < min(grant.wish, asked or grant.wish):
        decided(scope, "clamp", because, asked=str(asked) if asked else None, used=str(cap))
    if grant.final:
        reason = "policy" if plan.final else because
        decided(scope, "finish", reason, asked=call.model, used=ticket.model)


def shadow_failed(scope: Scope, error: Exception) -> None:
    """Say once for each budget that its policy failed in shadow mode, where it hurts nobody."""
    if scope.budget.name not in _failed:
        _failed.add(scope.budget.name)
        _log.warning(
            "the observed policy of budget %r failed: %s", scope.budget.name, type(error).__name__
        )


def observed(scope: Scope, call: Call, plan: Plan, *, in_loop: bool) -> None:
    """Tell what a Plan would have changed about a call, had the scope been obeyed."""
    effort = call.effort_under(plan.effort)
    if effort != call.effort:
        decided(scope, "effort", "policy", asked=call.effort, used=effort, observed=True)
    if plan.rung and scope.budget.ladder:
        rung = scope.budget.ladder[min(plan.rung, len(scope.budget.ladder)) - 1]
        decided(scope, "downgrade", "policy", asked=call.model, used=rung, observed=True)
    if plan.final and in_loop:
        decided(scope, "finish", "policy", asked=call.model, used=call.model, observed=True)


def decided(  # noqa: PLR0913 -- the fields of the record
    scope: Scope,
    decision: events.Decision,
    reason: str,
    *,
    asked: str | None,
    used: str | None,
    observed: bool = False,
) -> None:
    """Emit one decision, if anybody listens."""
    if events.listening():
        events.emit(
            events.Decided(
                path=scope.path,
                scope_id=scope.id,
                decision=decision,
                reason=reason,
                asked=asked,
                used=used,
                observed=observed,
            )
        )


def _is_full(short: Short) -> bool:
    scope, meter, _ = short
    if meter == SECONDS:
        return True
    limit = scope.limit_on(meter)
    return limit is not None and scope.account.settled[meter] >= limit


def _error(kind: type[_E], short: Short, reason: str) -> _E:
    scope, meter, needed = short
    limit = getattr(scope.limits, METERS[meter])
    if meter == SECONDS:
        used, held = round(scope.elapsed(), 3), 0
    else:
        used = public_amount(meter, scope.account.settled[meter])
        held = public_amount(meter, scope.account.held[meter])
    return kind(
        path=scope.path,
        scope_id=scope.id,
        budget=scope.budget.name,
        meter=METERS[meter],
        used=used,
        held=held,
        needed=needed if meter == SECONDS else public_amount(meter, needed),
        limit=limit,
        reason=reason,
        scope=scope,
    )


def _note_refused(scope: Scope, refuser: Scope, error: BudgetExceeded) -> None:
    """Every scope from the one that refused down to the one that asked was refused."""
    each: Scope | None = scope
    while each is not None:
        if each.standing.exceeded is None:
            each.standing.exceeded = error
        each = None if each is refuser else each.parent
