"""Which budgets a model call is in reach of: handlers, an attached budget, the open scope."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, Final

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager

from budgetguard import BudgetGuardError, Scope, current_scope
from budgetguard.mode import forced_mode
from budgetguard_langchain import runs
from budgetguard_langchain.errors import unswallowable
from budgetguard_langchain.guarded_call import GuardedCall
from budgetguard_langchain.marks import inside_guarded_call
from budgetguard_langchain.runs import Guard, RunInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from langchain_core.callbacks import Callbacks
    from langchain_core.language_models.chat_models import BaseChatModel

_log = logging.getLogger("budgetguard")


def reach(
    model: BaseChatModel,
    callbacks: Callbacks,
    own: tuple[Guard, ...],
    messages: object,
    info: dict[str, Any],
) -> GuardedCall | None:
    """The call as guarded by every budget in reach; `None` if none is, or guarding is off.

    Args:
        model: The model asked.
        callbacks: The effective callbacks of the call.
        own: The guards that `attach` put on this very model.
        messages: The input, for the prompt of a task.
        info: `run_name`, `tags` and `metadata` of the call.
    """
    if inside_guarded_call() or forced_mode() == "off":
        return None  # a model that calls another model is one call: its own
    parent: UUID | None = getattr(callbacks, "parent_run_id", None)
    parent_id = runs.ambient_run_id() if parent is None else parent.int
    guards = [*_guards(callbacks), *_guards(model.callbacks), *own]
    if not guards and current_scope() is None:
        return None
    run = runs.RUNS.get(parent_id) if parent_id is not None else None
    late = runs.scope_of_ended(parent_id) if run is None else None
    base = runs.innermost(late if run is None else run.scope)
    known = () if run is None else run.guards
    fresh = [] if late is not None else [guard for guard in guards if guard not in known]
    scope, owned = base, list[Scope]()
    if fresh:
        if parent_id is not None and run is None:
            _warn_below_task(fresh)
        owned = _open(fresh, base, lambda: run_info(info, messages))
        scope = owned[-1] if owned else base
    if scope is None:
        return None
    path = run.path if run is not None else () if owned else (scope.id,)
    call = GuardedCall(scope, path, in_graph=run is not None and run.in_graph)
    call.owned = owned
    return call


def _open(guards: list[Guard], base: Scope | None, info: Callable[[], RunInfo]) -> list[Scope]:
    """The scopes that the guards add below `base`, outermost first; none if one of them raises."""
    owned: list[Scope] = []
    try:
        for guard in dict.fromkeys(guards):
            opened = guard.open(owned[-1] if owned else base, info)
            if opened is not None:
                owned.append(opened)
    except BaseException as error:
        for scope in reversed(owned):
            scope.close(error=True)
        if isinstance(error, BudgetGuardError):
            raise unswallowable(error) from None
        raise
    return owned


def without_guards(callbacks: Callbacks) -> Callbacks:
    """The callbacks of a guarded call whose handlers have nothing left to do.

    Only for a list, which LangChain gives to a root run: a manager also serves the runs below, and
    a run without any handler is cheaper by far.
    """
    if not isinstance(callbacks, list):
        return callbacks
    return [each for each in callbacks if not isinstance(getattr(each, "guard", None), Guard)]


def streams_anyway(model: BaseChatModel, callbacks: Callbacks, kwargs: dict[str, Any]) -> bool:
    """Whether `generate` will stream inside: asked to, or because a handler listens to tokens."""
    if kwargs.get("stream") or vars(model).get("streaming"):
        return True
    return any(_listens_to_tokens(type(handler)) for handler in _handlers(callbacks))


@functools.cache
def _listens_to_tokens(kind: type) -> bool:
    """Whether LangChain streams for a handler: that of astream_events, or of LangGraph's v3."""
    listens = getattr(kind, "on_stream_event", None)
    inherited = getattr(BaseCallbackHandler, "on_stream_event", None)
    return hasattr(kind, "tap_output_iter") or listens is not inherited


def in_reach(model: BaseChatModel, callbacks: Callbacks, own: tuple[Guard, ...]) -> bool:
    """Whether a budget is in reach of a call."""
    guarded = own or _guards(callbacks) or _guards(model.callbacks)
    return not inside_guarded_call() and bool(guarded or current_scope() is not None)


def _guards(callbacks: Callbacks) -> list[Guard]:
    if not callbacks:
        return []
    found = (getattr(handler, "guard", None) for handler in _handlers(callbacks))
    return [guard for guard in found if isinstance(guard, Guard)]


def _handlers(callbacks: Callbacks) -> list[BaseCallbackHandler]:
    return callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks or []


def run_info(info: dict[str, Any], messages: object) -> RunInfo:
    """What is told of a model that is a root run itself."""
    return RunInfo.of(info.get("run_name"), info.get("tags"), info.get("metadata"), messages)


_warned: Final[set[int]] = set()


def _warn_below_task(guards: list[Guard]) -> None:
    for guard in guards:
        if id(guard) not in _warned:
            _warned.add(id(guard))
            _log.warning(
                "a budget is attached to a model inside a chain or agent, so every call of the "
                "model is a task of its own; attach it to the agent instead: "
                "agent.with_config(callbacks=[BudgetCallbackHandler(budget)])"
            )
