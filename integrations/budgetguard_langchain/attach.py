"""attach: a guarded copy of a model, or a runnable with the handler; the argument is untouched."""

from __future__ import annotations

import functools
from typing import TypeVar
from weakref import WeakKeyDictionary

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.runnables import Runnable

from budgetguard import Budget
from budgetguard_langchain.entry_points import guarded_methods
from budgetguard_langchain.runs import Guard

R = TypeVar("R", bound=Runnable)  # pyright: ignore[reportMissingTypeArgument]


def attach(target: R, budget: Budget) -> R:
    """Put a chat model, chain or agent that exists already under a budget.

    A chat model gets a guarded copy of a dynamic subclass, so that `isinstance`, settings and HTTP
    clients stay as they are and nothing is patched; each call made outside a scope is a task. Any
    other runnable is returned with a `BudgetCallbackHandler`; each root run is a task.

    Args:
        target: A chat model or any other runnable; it is left as it is.
        budget: The budget of each task.

    Raises:
        TypeError: If `target` is not a runnable or `budget` is not a Budget.
    """
    if not isinstance(budget, Budget):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"budget must be a Budget, not a {type(budget).__name__}"
        raise TypeError(msg)
    if isinstance(target, BaseChatModel):
        copy = target.model_copy()
        object.__setattr__(copy, "__class__", _guarded_class(type(target), budget))
        return copy
    if not isinstance(target, Runnable):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"attach() takes a chat model or another runnable, not a {type(target).__name__}"
        raise TypeError(msg)
    from budgetguard_langchain.handler import BudgetCallbackHandler  # noqa: PLC0415 -- it patches

    return target.with_config(callbacks=[BudgetCallbackHandler(budget)])  # type: ignore[return-value]


@functools.lru_cache(maxsize=256)
def _guarded_class(kind: type[BaseChatModel], budget: Budget) -> type[BaseChatModel]:
    """The class with one more guard: what was attached last is asked first."""
    base, guards = _GUARDED.get(kind, (kind, ()))
    guards = (Guard(budget), *guards)
    methods = guarded_methods(base, guards)
    guarded = type(base.__name__, (base,), {"__module__": base.__module__, **methods})
    _GUARDED[guarded] = base, guards
    return guarded


_GUARDED: WeakKeyDictionary[type[BaseChatModel], tuple[type[BaseChatModel], tuple[Guard, ...]]] = (
    WeakKeyDictionary()
)
