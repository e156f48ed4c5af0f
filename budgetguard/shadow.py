"""Shadow mode: what a scope would have decided about a call, told and not done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgetguard import notices
from budgetguard.admission import Grant, Short, decide, demand_of
from budgetguard.asking import ask, fullest
from budgetguard.spend import METERS
from budgetguard.stores.memory import STORE

if TYPE_CHECKING:
    from budgetguard.call import Call
    from budgetguard.forecast import Outputs
    from budgetguard.ladder import Choice
    from budgetguard.loops import Loop
    from budgetguard.scope import Scope


def observe_call(
    scope: Scope, call: Call, loop: Loop | None, choice: Choice, outputs: Outputs | None
) -> None:
    """Tell what a scope in shadow mode would have decided about a call that was admitted."""
    try:
        plan = ask(scope, call)
    except Exception as error:  # noqa: BLE001 -- observation never hurts
        notices.shadow_failed(scope, error)
        return
    with STORE.lock:
        demand = demand_of(plan, loop, choice, outputs)
        verdict = decide(demand, (scope,), last=False)
    if plan.end is None and isinstance(verdict, Grant):
        notices.observed(scope, call, plan, in_loop=loop is not None)
        return
    short = verdict if isinstance(verdict, Short) else fullest(scope)
    finishes = plan.end is None and loop is not None and scope.owes_last_call
    decision = "stop" if (plan.end or scope.end) == "stop" else "refuse"
    notices.decided(
        scope,
        "finish" if finishes else decision,
        METERS[short.meter],
        asked=call.model,
        used=call.model if finishes else None,
        observed=True,
    )
