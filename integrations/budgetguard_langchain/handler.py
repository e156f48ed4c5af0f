"""BudgetCallbackHandler: a budget for an agent, chain or model that exists already, in one line.

The handler says which run is a task and keeps its scope. It refuses nothing itself: every chat
model call passes the guarded entry points (`entry_points`), which ask the run's scope.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

from budgetguard import Budget, BudgetExceeded, BudgetGuardError, current_scope, events
from budgetguard.mode import forced_mode
from budgetguard_langchain import completions, entry_points, runs
from budgetguard_langchain.errors import unswallowable
from budgetguard_langchain.marks import is_guarded
from budgetguard_langchain.runs import BudgetSource, Guard, RunInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

_log = logging.getLogger("budgetguard")
_warned: Final[set[str]] = set()

entry_points.install()  # when imported: a handler made in the arguments of a call is too late


class BudgetCallbackHandler(BaseCallbackHandler):
    """Put every task of an agent, chain or model under a budget.

    Each root run is one task with its own scope; a run inside an open scope of an equal Budget
    joins it, inside a scope of another Budget it opens a child. One handler may be shared by any
    number of runs, threads and event loops.
    """

    raise_error = True  # LangChain: a raised refusal aborts the run instead of being logged
    run_inline = True  # LangChain: call it in the run's own context, also under asyncio

    def __init__(
        self,
        budget: BudgetSource = None,
        *,
        id: Callable[[RunInfo], str | None] | None = None,
    ) -> None:
        """Make a handler.

        Args:
            budget: A Budget, or a callable that chooses one for a root run (`None`: that run is
                unguarded); left out, the scope that is open where the run starts is used.
            id: Chooses the account of a root run, so that several runs share one, as in
                `id=lambda run: run.thread_id`.

        Raises:
            TypeError: If `budget` or `id` is neither of these.
        """
        chooses = callable(budget) and not isinstance(budget, type)
        if budget is not None and not isinstance(budget, Budget) and not chooses:
            msg = f"budget must be a Budget or a callable that returns one, not {budget!r}"
            raise TypeError(msg)
        if id is not None and not callable(id):
            msg = f"id must be a callable, as in id=lambda run: run.thread_id, not {id!r}"
            raise TypeError(msg)
        self.guard = Guard(budget, id)

    def on_chain_start(  # noqa: PLR0913 -- LangChain's signature
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Open the scope of a root run; note which scope any other run belongs to."""

        def info() -> RunInfo:
            return RunInfo.of(kwargs.get("name"), tags, metadata, inputs)

        self._start(run_id.int, parent_run_id, tags, info)

    def on_tool_start(  # noqa: PLR0913 -- LangChain's signature
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the task's scope the open one inside the tool."""

        def info() -> RunInfo:
            return RunInfo.of(kwargs.get("name"), tags, metadata, None)

        known = run_id.int in runs.RUNS
        run = self._start(run_id.int, parent_run_id, tags, info)
        if not known:
            runs.enter(run, run_id.int)

    def _start(
        self,
        run_id: int,
        parent_run_id: UUID | None,
        tags: list[str] | None,
        info: Callable[[], RunInfo],
    ) -> runs.Run:
        parent_id = None if parent_run_id is None else parent_run_id.int
        try:
            return runs.start(self.guard, run_id, parent_id, tags, info)
        except BudgetGuardError as error:
            raise unswallowable(error) from None

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Close what the run opened."""
        runs.end(run_id.int)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Close what the run opened; a refusal, a cancellation or an early close is no error."""
        runs.end(run_id.int, error=is_failure(error))

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Leave the tool's context."""
        runs.end(run_id.int)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Leave the tool's context."""
        runs.end(run_id.int, error=is_failure(error))

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Notice a chat model that overrides an entry point, and so escaped the guard."""
        if not is_guarded(run_id):
            self._tell_unmetered(serialized, parent_run_id, "overrides a guarded entry point")

    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Admit a call of a completion model, which has no entry point of ours."""
        completions.started(self.guard, prompts, run_id, parent_run_id, kwargs)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Settle a call of a completion model."""
        completions.ended(run_id, response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Settle a call of a completion model that failed."""
        completions.failed(run_id, error)

    def _tell_unmetered(
        self, serialized: dict[str, Any] | None, parent_run_id: UUID | None, why: str
    ) -> None:
        names: list[str] = (serialized or {}).get("id") or ["a model"]
        what = f"{names[-1]} {why}"
        run = runs.RUNS.get(parent_run_id.int) if parent_run_id is not None else None
        scope = runs.innermost(run.scope if run is not None else None)
        if forced_mode() == "off" or (scope is None and not isinstance(self.guard.source, Budget)):
            return  # unguarded on purpose
        if what not in _warned:
            _warned.add(what)
            _log.warning("%s: its calls are not under the budget", what)
        if events.listening():
            path, scope_id = ("", "") if scope is None else (scope.path, scope.id)
            events.emit(events.Unmetered(path=path, scope_id=scope_id, what=what))


class _OpenScope:
    """What LangChain asks, as it would a context variable, for a handler to add to every run.

    Inside `with budget.open():` it answers with one, so that agents without a handler of their own
    have their runs followed too; elsewhere with none.
    """

    def get(self) -> BudgetCallbackHandler | None:
        """The handler that uses the open scope; `None` where none is open."""
        return _for_open_scope if current_scope() is not None else None


_for_open_scope: Final = BudgetCallbackHandler()
register_configure_hook(_OpenScope(), inheritable=True)  # pyright: ignore[reportArgumentType]


def is_failure(error: BaseException) -> bool:
    """Whether a run that ended with `error` failed, rather than was refused, stopped or paused."""
    if isinstance(error, BudgetExceeded) or not isinstance(error, Exception):
        return False
    if isinstance(error, BudgetGuardError):
        return True
    return not any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__)
