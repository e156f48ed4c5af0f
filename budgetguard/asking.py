"""Asking one scope: what its policy says about a call, and which of its meters is the fullest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgetguard.admission import SECONDS, Short
from budgetguard.difficulty import UNKNOWN
from budgetguard.efforts.scale import THINKING_TOKENS, lower
from budgetguard.plan import EMPTY, Plan
from budgetguard.policy import planned
from budgetguard.spend import TURNS
from budgetguard.state import State

if TYPE_CHECKING:
    from budgetguard.call import Call
    from budgetguard.scope import Scope


def ask(scope: Scope, call: Call) -> Plan:
    """What the policy of one scope says about a call, with the effort that the task is latched to.

    Raises:
        TypeError: If the policy returns something that is not a Plan.
    """
    account, standing = scope.account, scope.standing
    if _is_quiet(scope):
        return EMPTY
    settled, held = account.settled, account.held
    state = State(
        scope.budget,
        call,
        limits=scope.limits,
        held_limits=scope.held_limits,
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


def _is_quiet(scope: Scope) -> bool:
    """Whether the policy is known to say nothing yet, so that it need not be asked."""
    quiet = scope.budget.quiet
    if not quiet or scope.standing.effort is not None:
        return False
    if scope.estimation.difficulty is not UNKNOWN:
        return False
    settled = scope.account.settled
    for meter, amount in quiet:  # noqa: SIM110 -- a generator doubles its cost
        if settled[meter] >= amount:
            return False
    return True


def fullest(scope: Scope) -> Short:
    """The meter of a scope that is nearest to its limit."""
    settled = scope.account.settled
    used = [(settled[meter] / limit, meter) for meter, limit in scope.held_limits]
    if scope.budget.seconds is not None:
        used.append((scope.elapsed() / (scope.budget.seconds + scope.more_seconds), SECONDS))
    return Short(scope, max(used)[1] if used else TURNS)


def thinking_under(plan: Plan) -> int | None:
    """The thinking budget of a Plan, which its effort bounds too."""
    if plan.effort is None:
        return plan.thinking_tokens
    by_effort = THINKING_TOKENS[plan.effort]
    return by_effort if plan.thinking_tokens is None else min(by_effort, plan.thinking_tokens)
