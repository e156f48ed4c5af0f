"""budgetguard for LangChain: a budget on an agent, chain or model that exists already.

`agent.with_config(callbacks=[BudgetCallbackHandler(budget)])` is the one line.
"""

from budgetguard_langchain.attach import attach
from budgetguard_langchain.handler import BudgetCallbackHandler
from budgetguard_langchain.runs import RunInfo

__all__ = ["BudgetCallbackHandler", "RunInfo", "attach"]
