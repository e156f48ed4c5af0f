"""budgetguard: budgets of tokens, turns, money and time for AI agents, enforced before each call.

Make a `Budget`, attach it to an agent with the integration of its framework, or open it by hand:
`with Budget("triage", tokens=40_000).open() as task: ...`.
"""

from budgetguard._version import __version__
from budgetguard.budget import Budget
from budgetguard.call import Call
from budgetguard.current import current_scope
from budgetguard.difficulty import Difficulty, Task
from budgetguard.errors import (
    BudgetBusy,
    BudgetExceeded,
    BudgetGuardError,
    BudgetStopped,
    NoOpenBudget,
    ScopeClosed,
    StoreUnavailableError,
    UnpricedModelError,
)
from budgetguard.events import Decided, Event, Settled, log_to, subscribe
from budgetguard.plan import Plan
from budgetguard.policy import Condition, Policy, when
from budgetguard.price import Price
from budgetguard.rules import (
    DEFAULT_POLICY,
    cap_output,
    downgrade,
    easier_than,
    effort,
    fail,
    finish,
    harder_than,
    observe,
    spent,
    stop,
    turns_left,
)
from budgetguard.scope import Scope
from budgetguard.spend import Limits, Spend, Usage
from budgetguard.state import State
from budgetguard.ticket import Ticket

__all__ = [
    "DEFAULT_POLICY",
    "Budget",
    "BudgetBusy",
    "BudgetExceeded",
    "BudgetGuardError",
    "BudgetStopped",
    "Call",
    "Condition",
    "Decided",
    "Difficulty",
    "Event",
    "Limits",
    "NoOpenBudget",
    "Plan",
    "Policy",
    "Price",
    "Scope",
    "ScopeClosed",
    "Settled",
    "Spend",
    "State",
    "StoreUnavailableError",
    "Task",
    "Ticket",
    "UnpricedModelError",
    "Usage",
    "__version__",
    "cap_output",
    "current_scope",
    "downgrade",
    "easier_than",
    "effort",
    "fail",
    "finish",
    "harder_than",
    "log_to",
    "observe",
    "spent",
    "stop",
    "subscribe",
    "turns_left",
    "when",
]
