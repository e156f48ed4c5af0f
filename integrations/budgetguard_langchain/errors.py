"""Refusals that no part of LangGraph swallows.

LangGraph's own control flow derives from `GraphBubbleUp`, which retry, fallback and tool-error
middleware, tool nodes and retry policies all let pass. Where LangGraph is in use, a refusal
derives from it too; `except BudgetExceeded` catches it all the same.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, TypeVar

from budgetguard import BudgetGuardError

E = TypeVar("E", bound=BudgetGuardError)


def unswallowable(error: BudgetGuardError) -> BudgetGuardError:
    """The same error, as one that LangGraph lets pass; as it is where LangGraph is not in use."""
    if "langgraph.errors" not in sys.modules:
        return error
    return _as(_bubbling(type(error)), error)


@functools.cache
def _bubbling(kind: type[BudgetGuardError]) -> type[BudgetGuardError]:
    from langgraph.errors import GraphBubbleUp  # noqa: PLC0415 -- only where it is loaded already

    if issubclass(kind, GraphBubbleUp):
        return kind

    def reduce(error: BudgetGuardError) -> str | tuple[Any, ...]:
        """Pickle as the plain error, which needs no LangGraph where it is read."""
        return _as(kind, error).__reduce__()

    return type(kind.__name__, (kind, GraphBubbleUp), {"__reduce__": reduce})


def _as(kind: type[E], error: BudgetGuardError) -> E:
    """A copy of an error that is of another kind and knows the same."""
    copy = kind.__new__(kind, *error.args)
    copy.__dict__.update(vars(error))
    return copy
