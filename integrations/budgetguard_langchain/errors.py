"""Refusals that no part of LangGraph swallows.

LangGraph's own control flow derives from `GraphBubbleUp`, which retry, fallback and tool-error
middleware, tool nodes and retry policies all let pass. Where LangGraph is in use, a refusal
derives from it too; `except BudgetExceeded` catches it all the same.
"""

from __future__ import annotations

import functools
import sys

from budgetguard import BudgetExceeded, BudgetGuardError, UnpricedModelError


def unswallowable(error: BudgetGuardError) -> BudgetGuardError:
    """The same error, as one that LangGraph lets pass; as it is where LangGraph is not in use."""
    if "langgraph.errors" not in sys.modules:
        return error
    kind = _bubbling(type(error))
    if isinstance(error, BudgetExceeded):
        return kind(**error.numbers(), scope=error.scope)
    if isinstance(error, UnpricedModelError):
        return kind(error.model, error.budget)
    return kind(*error.args)


@functools.cache
def _bubbling(kind: type[BudgetGuardError]) -> type[BudgetGuardError]:
    from langgraph.errors import GraphBubbleUp  # noqa: PLC0415 -- only where it is loaded already

    if issubclass(kind, GraphBubbleUp):
        return kind
    return type(kind.__name__, (kind, GraphBubbleUp), {"__reduce__": _reduce, "_plain": kind})


def _reduce(error: BudgetGuardError) -> tuple[object, ...]:
    """Pickle as the plain error, which needs no LangGraph where it is read."""
    plain: type[BudgetGuardError] = error._plain  # type: ignore[attr-defined]  # noqa: SLF001
    if isinstance(error, BudgetExceeded):
        return _rebuild, (plain, error.numbers())
    if isinstance(error, UnpricedModelError):
        return plain, (error.model, error.budget)
    return plain, error.args


def _rebuild(kind: type[BudgetExceeded], numbers: dict[str, object]) -> BudgetExceeded:
    return kind(**numbers)  # type: ignore[arg-type]
