"""The gate: every admission passes here, or its other door, `fleet`, where stores keep accounts.

It never sleeps: it returns a Ticket, or names the scope that has no room for the moment.

One admission, step by step: `Scope.admit` (admitting) -> `attempt` here -> a `Case`: `ask` each
policy (asking, policy, rules, state) -> `choose` a model and its price (ladder, pricing) ->
`demand_of` the call (admission, forecast) -> `decide` by the accounts (admission, loops, stores)
-> hold and latch (`Case.decide`, standing) -> tell (notices, events) -> a Ticket; or wait
(waiting), or end (ending, errors).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgetguard.case import Case
from budgetguard.ticket import Ticket

if TYPE_CHECKING:
    from budgetguard.admission import Short
    from budgetguard.call import Call
    from budgetguard.scope import Scope
    from budgetguard.waiting import Waiter


def attempt(
    scope: Scope, call: Call, owner: object, waiter: Waiter | None = None
) -> Ticket | Short:
    """Admit a call now, or say which scope lacks room for the moment (and queue the waiter there).

    Raises:
        BudgetExceeded: If the call is refused, here and now.
        UnpricedModelError: If a usd limit answers and the model has no price.
        ScopeClosed: If the scope, or one above it, is closed.
    """
    check_call(call)
    if not scope.lineage.billed:
        return Ticket.free(scope, call)
    case = Case(scope, call)
    return case.concluded(case.decide(owner, waiter))


def check_call(call: Call) -> None:
    """Raise `ValueError` for a call that cannot be."""
    if call.input_tokens < 0 or call.n < 1:
        msg = f"a call cannot have {call.input_tokens} input tokens and {call.n} completions"
        raise ValueError(msg)
