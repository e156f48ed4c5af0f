"""budgetguard for LangChain: a budget on an agent, chain or model that exists already.

`agent.with_config(callbacks=[BudgetCallbackHandler(budget)])` is the one line. The handler is
loaded when it is first named, because loading it installs the guarded entry points, and
`attach(model, budget)` does without them.
"""

from typing import TYPE_CHECKING, Any

from budgetguard_langchain.attach import attach
from budgetguard_langchain.runs import RunInfo

if TYPE_CHECKING:
    from budgetguard_langchain.handler import BudgetCallbackHandler

__all__ = ["BudgetCallbackHandler", "RunInfo", "attach"]


def __getattr__(name: str) -> Any:
    if name != "BudgetCallbackHandler":
        raise AttributeError(name)
    from budgetguard_langchain.handler import BudgetCallbackHandler  # noqa: PLC0415 -- see above

    return BudgetCallbackHandler
