"""One guarded model call: who answers for it, its ticket, and how it ends, in every entry point.

Whatever happens to the call, its ticket is settled or released, and the scopes that were opened
for it alone are closed.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from budgetguard import BudgetExceeded, BudgetGuardError, BudgetStopped, Call, Scope, Ticket, Usage
from budgetguard_langchain.calls import describe, prepare, record_bill
from budgetguard_langchain.ended import ended_model
from budgetguard_langchain.errors import unswallowable
from budgetguard_langchain.failures import bill_of, is_error_answer, was_never_sent
from budgetguard_langchain.marks import unmark
from budgetguard_langchain.messages import strip_tool_calls, without_tool_calls
from budgetguard_langchain.usage import (
    add_usage,
    answers_of,
    is_truncated,
    read,
    reported_by,
    visible_tokens,
    wants_tools,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable, Sequence
    from uuid import UUID

    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.outputs import Generation

    Request = tuple[BaseChatModel, list[BaseMessage], dict[str, Any]]


class GuardedCall:
    """A model call in reach of a budget."""

    def __init__(self, scope: Scope, path: tuple[Hashable, ...], *, in_graph: bool) -> None:
        self.scope = scope
        self.owned: list[Scope] = []
        self.run_id: UUID | None = None
        """The run of a lazy stream that was started."""
        self._path = path
        self._in_graph = in_graph
        self._ticket: Ticket | None = None
        self._is_sent = False
        self._chunks: list[AIMessageChunk] | None = None

    def admit(
        self,
        model: BaseChatModel,
        messages: list[BaseMessage],
        kwargs: dict[str, Any],
        *,
        streams: bool,
    ) -> Request:
        """Admit the call, waiting in this thread where it must, and steer it.

        Args:
            model: The model asked.
            messages: Its input.
            kwargs: The per-call arguments.
            streams: Whether the answer will be streamed, so that its usage must be asked for.

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
        return self._prepare(self._ticket, model, messages, kwargs, streams=streams)

    async def aadmit(
        self,
        model: BaseChatModel,
        messages: list[BaseMessage],
        kwargs: dict[str, Any],
        *,
        streams: bool,
    ) -> Request:
        """Admit the call, waiting in this task where it must, and steer it; like `admit`."""
        try:
            self._ticket = await self.scope.aadmit(self._describe(model, messages, kwargs))
        except BudgetStopped as stopped:
            return ended_model(stopped), messages, {}
        except BudgetGuardError as error:
            raise unswallowable(error) from None
        return self._prepare(self._ticket, model, messages, kwargs, streams=streams)

    def _prepare(
        self,
        ticket: Ticket,
        model: BaseChatModel,
        messages: list[BaseMessage],
        kwargs: dict[str, Any],
        *,
        streams: bool,
    ) -> Request:
        request = prepare(ticket, self._described.asked, model, messages, kwargs, streams=streams)
        self._is_sent = True
        return request

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
    def until_answered(self) -> Generator[None]:
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
        if self._ticket is not None and self._ticket.plan.final:
            return without_tool_calls(chunk)
        return chunk

    def succeeded(self, generations: Sequence[Generation]) -> None:
        """Settle by the answer; an answer of LangChain's cache costs nothing."""
        ticket = self._ticket
        if ticket is None:
            return
        answers = answers_of(generations)
        reported = reported_by(answers)
        if reported.get("total_cost") == 0:
            ticket.release()
            for message in answers:  # what the cache kept of another task
                message.response_metadata.pop("budgetguard", None)
            return
        truncated = any(is_truncated(message) for message in answers)
        usage = read(reported, answers, ticket, truncated=truncated)
        self._settle(ticket, usage, ends_loop=not wants_tools(answers))
        for message in answers:
            if ticket.plan.final and isinstance(message, AIMessage):
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
        if not self._is_sent or was_never_sent(error):
            ticket.release()
        elif chunks is None and is_error_answer(error):
            ticket.settle(Usage())
        elif chunks is None:
            bill = bill_of(error)
            ticket.settle_unanswered() if bill is None else ticket.settle(bill)
        elif (reported := add_usage(chunks)).get("output_tokens"):
            ticket.settle(read(reported, chunks, ticket, truncated=False))
        else:
            ticket.settle_unanswered(visible_tokens(chunks), hidden=ticket.call.thinks)

    async def delivered(self) -> None:
        """Wait until the stores that keep an account know the bill; without any, for nothing."""
        if self._ticket is not None and self._ticket.held is not None:
            await self._ticket.delivered()

    def close(self, error: BaseException | None = None) -> None:
        """Close what was opened for this call alone."""
        failure = isinstance(error, Exception) and not isinstance(error, BudgetExceeded)
        for scope in reversed(self.owned):
            scope.close(error=failure)

    def abandoned(self) -> None:
        """End a lazy stream that was dropped: given back if nobody ever started it."""
        if self.run_id is not None:
            unmark(self.run_id)
            self.failed(GeneratorExit())
        elif self._ticket is not None:
            self._ticket.release()
        self.close()

    def _settle(self, ticket: Ticket, usage: Usage, *, ends_loop: bool) -> None:
        if not usage.estimated and not ticket.plan.final:
            record_bill(self._described, usage)
        ticket.settle(usage, ends_loop=ends_loop)


def done(ticket: Ticket) -> dict[str, Any]:
    """What was asked for and what was done, for `response_metadata["budgetguard"]`."""
    call, plan = ticket.call, ticket.plan
    same = ticket.model == call.model
    return {
        "asked_model": call.model,
        "used_model": ticket.model,
        "asked_effort": call.effort,
        "used_effort": call.effort_under(plan.effort) if same else plan.effort,
        "degraded": bool(plan.rung) or ticket.scope.standing.degraded,
        "final": plan.final,
    }
