"""Which scope is open here: in this thread, task or tool, and in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from budgetguard.stores.memory import STORE

if TYPE_CHECKING:
    from contextvars import Token

    from budgetguard.scope import Scope

_current: ContextVar[Scope | None] = ContextVar("budgetguard_scope", default=None)

_inside_tool: ContextVar[bool] = ContextVar("budgetguard_inside_tool", default=False)

FORKS: Final = [0]
"""The number of forks between the first process and this one, as the one item of a list."""


def _after_fork() -> None:
    FORKS[0] += 1
    STORE.forget_everything()
    _current.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def current_scope() -> Scope | None:
    """The scope that is open here: in this thread, task or tool; `None` if none is."""
    scope = _current.get()
    while scope is not None and scope.standing.closed:  # left open in a context nobody returned to
        scope = scope.parent
    return scope


def runs_an_event_loop() -> bool:
    """Whether this thread runs an event loop, which a waiting thread would stop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def inside_tool() -> bool:
    """Whether a tool of an agent runs here."""
    return _inside_tool.get()


def enter_tool(scope: Scope) -> tuple[Token[Scope | None], Token[bool]]:
    """A tool of an agent begins here: its scope is the open one, until `leave_tool`."""
    return _current.set(scope), _inside_tool.set(True)


def leave_tool(tokens: tuple[Token[Scope | None], Token[bool]]) -> None:
    """Undo `enter_tool`; in another context than that there is nothing to undo."""
    with contextlib.suppress(ValueError):
        _current.reset(tokens[0])
        _inside_tool.reset(tokens[1])


def set_current(scope: Scope) -> Token[Scope | None]:
    """Make it the open scope here, until `reset_current`."""
    return _current.set(scope)


def reset_current(token: Token[Scope | None]) -> None:
    """Undo `set_current`; in another context than that of the setting there is nothing to undo."""
    with contextlib.suppress(ValueError):
        _current.reset(token)
