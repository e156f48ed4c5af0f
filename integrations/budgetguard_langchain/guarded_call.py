"""One guarded model call: who answers for it, its ticket, and how it ends, in every entry point.

Whatever happens to the call, its ticket is settled or released, and the scopes that were opened
for it alone are closed.
"""

from __future__ import annotations

import contextlib
import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from budgetguard import BudgetGuardError, BudgetStopped, Call, Scope, Ticket, Usage, current_scope
from budgetguard.mode import forced_mode
from budgetguard_langchain import runs
from budgetguard_langchain.calls import describe, prepare, record_bill
from budgetguard_langchain.ended import ended_model
from budgetguard_langchain.errors import unswallowable
from budgetguard_langchain.runs import Guard, RunInfo
from budgetguard_langchain.usage import (
    add_usage,
    is_cache_hit,
    is_truncated,
    read,
    usage_of,
    visible_tokens,
    wants_tools,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from langchain_core.callbacks import Callbacks
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.outputs import Generation

    Request = tuple[BaseChatModel, list[BaseMessage], dict[str, Any]]

_log = logging.getLogger("budgetguard")
_inside: ContextVar[bool] = ContextVar("budgetguard_langchain_inside", default=False)
_marked: Final[set[UUID]] = set()
_NEVER_SENT: Final = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")
_NO_ANSWER: Final = "The budget for this task is used up, and the last call gave no answer."


def is_guarded(run_id: UUID) -> bool:
    """Whether the model run that starts now passed the gate."""
    return _inside.get() or run_id in _marked


class inside:  # noqa: N801 -- reads as a statement: `with inside():`
    """Marks the model runs that start in this block as guarded."""

    def __enter__(self) -> None:
        self._token = _inside.set(True)

    def __exit__(self, *_: object) -> None:
        _inside.reset(self._token)


class GuardedCall:
    """A model call in reach of a budget."""

    def __init__(self, scope: Scope, path: tuple[str, ...], *, in_graph: bool) -> None:
        self.scope = scope
        self.owned: list[Scope] = []
        self._path = path
        self._in_graph = in_graph
        self._ticket: Ticket | None = None
        self._chunks: list[AIMessageChunk] | None = None

    def admit(
        self, model: BaseChatModel, messages: list[BaseMessage], kwargs: dict[str, Any]
    ) -> Request:
        """Admit the call, waiting in this thread where it must, and steer it.

        Returns:
            The model, messages and arguments to call with; where the budget ends quietly, a model
            that says so.

        Raises:
            BudgetExceeded: If it is refused, as an error that LangGraph lets pass.
        """
        try:
            self._ticket = self.scope.admit(self._describe(model, messages, kwargs))
        except BudgetStopped as stopped:
            return ended_model(stopped), messages, {}
        except BudgetGuardError as error:
            raise unswallowable(error) from None
        return prepare(self._ticket, model, messages, kwargs)

    async def aadmit(
        self, model: BaseChatModel, messages: list[BaseMessage], kwargs: dict[str, Any]
    ) -> Request:
        """Admit the call, waiting in this task where it must, and steer it; like `admit`."""
        try:
            self._ticket = await self.scope.aadmit(self._describe(model, messages, kwargs))
        except BudgetStopped as stopped:
            return ended_model(stopped), messages, {}
        except BudgetGuardError as error:
            raise unswallowable(error) from None
        return prepare(self._ticket, model, messages, kwargs)

    def _describe(
        self, model: BaseChatModel, messages: list[BaseMessage], kwargs: dict[str, Any]
    ) -> Call:
        self._described = describe(
            self.scope, model, messages, kwargs, path=self._path, in_graph=self._in_graph
        )
        return self._described.call

    def __enter__(self) -> None:
        """Watch the call: whatever is raised in this block settles its ticket."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.failed(error)
        self.close(error)

    @contextlib.contextmanager
    def until_answered(self) -> Iterator[None]:
        """Watch a call whose answer comes later: close only if something is raised before."""
        try:
            yield
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def seen(self, chunk: AIMessageChunk) -> AIMessageChunk:
        """Note a chunk that passes; in a last call, without the tool calls it may carry."""
        if self._chunks is None:
            self._chunks = []
        self._chunks.append(chunk)
        if self._ticket is not None and self._ticket.plan.final and chunk.tool_call_chunks:
            return chunk.model_copy(update={"tool_call_chunks": [], "tool_calls": []})
        return chunk

    def succeeded(self, generations: Sequence[Generation]) -> None:
        """Settle by the answer; an answer of LangChain's cache costs nothing."""
        ticket = self._ticket
        if ticket is None:
            return
        if is_cache_hit(generations):
            ticket.release()
            return
        usage = usage_of(generations, ticket)
        self._settle(ticket, usage, ends_loop=not wants_tools(generations))
        for generation in generations:
            message = getattr(generation, "message", None)
            if isinstance(message, AIMessage):
                if ticket.plan.final:
                    strip_tool_calls(message)
                message.response_metadata["budgetguard"] = done(ticket)

    def streamed(self) -> None:
        """Settle a stream that ended, by its chunks."""
        ticket, chunks = self._ticket, self._chunks or []
        if ticket is None:
            return
        truncated = any(is_truncated(chunk) for chunk in chunks[-3:])
        usage = read(add_usage(chunks), chunks, ticket, truncated=truncated)
        asks = any(chunk.tool_call_chunks or chunk.tool_calls for chunk in chunks)
        self._settle(ticket, usage, ends_loop=not asks)

    def failed(self, error: BaseException) -> None:
        """Settle a call that raised or was broken off.

        An error answer is a turn without tokens, what was never sent is given back, anything else
        is charged an estimate of what the provider did in the meantime.
        """
        ticket, chunks = self._ticket, self._chunks
        if ticket is None:
            return
        if isinstance(getattr(error, "status_code", None), int):
            ticket.settle(Usage())
        elif _never_sent(error):
            ticket.release()
        elif chunks is None:
            ticket.settle_unanswered()
        elif (reported := add_usage(chunks)).get("output_tokens"):
            ticket.settle(read(reported, chunks, ticket, truncated=False))
        else:
            ticket.settle_unanswered(visible_tokens(chunks), hidden=ticket.call.thinks)

    def close(self, error: BaseException | None = None) -> None:
        """Close what was opened for this call alone."""
        failure = isinstance(error, Exception) and not isinstance(error, BudgetGuardError)
        for scope in reversed(self.owned):
            scope.close(error=failure)

    def abandoned(self) -> None:
        """Give back a lazy stream that nobody ever started."""
        if self._ticket is not None:
            self._ticket.release()
        self.close()

    def _settle(self, ticket: Ticket, usage: Usage, *, ends_loop: bool) -> None:
        if not usage.estimated and not ticket.plan.final:
            record_bill(self._described, usage)
        ticket.settle(usage, ends_loop=ends_loop)


def reach(
    model: BaseChatModel,
    callbacks: Callbacks,
    own: Guard | None,
    messages: object,
    info: dict[str, Any],
) -> GuardedCall | None:
    """The call as guarded by every budget in reach; `None` if none is, or guarding is off.

    Args:
        model: The model asked.
        callbacks: The effective callbacks of the call.
        own: The guard that `attach` put on this very model.
        messages: The input, for the prompt of a task.
        info: `run_name`, `tags` and `metadata` of the call.
    """
    if _inside.get() or forced_mode() == "off":
        return None  # a model that calls another model is one call: its own
    parent_id: UUID | None = getattr(callbacks, "parent_run_id", None)
    guards = [*_guards(callbacks), *_guards(model.callbacks)]
    if own is not None:
        guards.append(own)
    if not guards and current_scope() is None:
        return None
    run = runs.RUNS.get(parent_id) if parent_id is not None else None
    base = runs.innermost(run.scope if run is not None else None)
    fresh = guards if run is None else [guard for guard in guards if guard not in run.guards]
    scope, owned = base, list[Scope]()
    if fresh:
        if parent_id is not None and run is None:
            _warn_below_task(fresh)
        told = _run_info(info, messages)
        for guard in dict.fromkeys(fresh):
            opened = guard.open(scope, told)
            if opened is not None:
                owned.append(opened)
                scope = opened
    if scope is None:
        return None
    path = run.path if run is not None else () if owned else (scope.id,)
    call = GuardedCall(scope, path, in_graph=run is not None and run.in_graph)
    call.owned = owned
    return call


def in_reach(model: BaseChatModel, callbacks: Callbacks, own: Guard | None) -> bool:
    """Whether a budget is in reach of a call."""
    guarded = own is not None or _guards(callbacks) or _guards(model.callbacks)
    return not _inside.get() and bool(guarded or current_scope() is not None)


def mark(run_id: UUID) -> None:
    """Note that a model run, of a lazy stream, passed the gate when the stream was made."""
    _marked.add(run_id)


def unmark(run_id: UUID) -> None:
    """Forget a marked run that has ended."""
    _marked.discard(run_id)


def strip_tool_calls(message: AIMessage) -> None:
    """Take out the tool calls that a model made although tools were off; leave an answer."""
    if not message.tool_calls and not message.invalid_tool_calls:
        return
    message.tool_calls = []
    message.invalid_tool_calls = []
    message.additional_kwargs.pop("tool_calls", None)
    if isinstance(message.content, list):
        message.content = [
            block
            for block in message.content
            if not (isinstance(block, dict) and block.get("type") == "tool_use")
        ]
    if not message.text.strip():
        message.content = _NO_ANSWER


def done(ticket: Ticket) -> dict[str, Any]:
    """What was asked for and what was done, for `response_metadata["budgetguard"]`."""
    call, plan = ticket.call, ticket.plan
    return {
        "asked_model": call.model,
        "used_model": ticket.model,
        "asked_effort": call.effort,
        "planned_effort": plan.effort,
        "degraded": bool(plan.rung) or ticket.scope.standing.degraded,
        "final": plan.final,
    }


def _guards(callbacks: Callbacks) -> list[Guard]:
    if not callbacks:
        return []
    handlers = callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks
    found = (getattr(handler, "guard", None) for handler in handlers)
    return [guard for guard in found if isinstance(guard, Guard)]


def _run_info(info: dict[str, Any], messages: object) -> RunInfo:
    metadata: dict[str, Any] = info.get("metadata") or {}
    thread = metadata.get("thread_id")
    return RunInfo(
        name=info.get("run_name"),
        tags=tuple(info.get("tags") or ()),
        metadata=metadata,
        thread_id=None if thread is None else str(thread),
        prompt=runs.prompt_of(messages),
    )


def _never_sent(error: BaseException | None) -> bool:
    """Whether no connection was made, or the call was cancelled before it went out."""
    while error is not None:
        if type(error).__name__ in _NEVER_SENT:
            return True
        error = error.__cause__ or error.__context__
    return False


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
