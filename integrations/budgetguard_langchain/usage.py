"""What the provider billed, read from LangChain's answers, and believed only if it is credible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.ai import add_usage as add_reported

from budgetguard import Usage
from budgetguard.tally import tally
from budgetguard_langchain.messages import texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langchain_core.outputs import Generation

    from budgetguard import Ticket

MOST_CREDIBLE: Final = 10_000_000
"""No model takes or gives more tokens in one call; a larger count is not believed."""

_NOTHING: Final[Mapping[str, Any]] = {}
_TRUNCATED: Final = frozenset({"length", "max_tokens", "MAX_TOKENS"})


def answers_of(generations: Sequence[Generation]) -> list[BaseMessage]:
    """The messages of an answer, one for each completion."""
    found = [getattr(generation, "message", None) for generation in generations]
    return [message for message in found if message is not None]


def reported_by(answers: Sequence[BaseMessage]) -> Mapping[str, Any]:
    """The usage that the provider reported; with `n > 1` every completion repeats that of all."""
    found = getattr(answers[0], "usage_metadata", None) if answers else None
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else _NOTHING


def read(
    metadata: Mapping[str, Any], answers: Iterable[BaseMessage], ticket: Ticket, *, truncated: bool
) -> Usage:
    """The bill in `usage_metadata`, completed by estimates from the answers themselves."""
    details = _details(metadata, "input_token_details")
    sent = _count(metadata.get("input_tokens"))
    received = _count(metadata.get("output_tokens"))
    estimated = not sent or received is None
    if not sent:
        sent = ticket.need[1]
    seen = 0 if received else visible_tokens(answers)
    if not received:
        estimated = estimated or seen > 0
        received = min(seen, ticket.need[2])
    reasoning = _count(_details(metadata, "output_token_details").get("reasoning")) or 0
    usage = Usage(sent, received, min(reasoning, received), 0, 0, 0, estimated, truncated)
    return _with_cache(usage, details) if details else usage


def _with_cache(usage: Usage, details: Mapping[str, Any]) -> Usage:
    """The bill with what was read from and written to the prompt cache."""
    lasting = _count(details.get("ephemeral_1h_input_tokens")) or 0
    brief = _count(details.get("ephemeral_5m_input_tokens")) or 0
    written = (_count(details.get("cache_creation")) or 0) + brief + lasting
    read_tokens = min(_count(details.get("cache_read")) or 0, usage.input_tokens)
    written = min(written, usage.input_tokens - read_tokens)
    return usage._replace(
        cache_read_tokens=read_tokens,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(lasting, written),
    )


def visible_tokens(messages: Iterable[BaseMessage]) -> int:
    """Upper estimate of the tokens in what arrived."""
    total = 0
    for message in messages:
        for piece in texts(message):
            total += piece if isinstance(piece, int) else sum(tally(piece))
        for part in getattr(message, "tool_call_chunks", None) or ():
            total += sum(tally(part.get("args") or ""))
    return total


def add_usage(chunks: Iterable[BaseMessage]) -> dict[str, Any]:
    """The usage that the chunks of a stream report, added up as LangChain does."""
    total: UsageMetadata | None = None
    for chunk in chunks:
        reported = getattr(chunk, "usage_metadata", None)
        if reported:
            total = reported if total is None else add_reported(total, reported)
    return cast("dict[str, Any]", total or {})


def wants_tools(answers: Iterable[BaseMessage]) -> bool:
    """Whether an answer asks for a tool, so that its agent loop goes on."""
    for message in answers:
        if isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls):
            return True
    return False


def _details(metadata: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = metadata.get(name)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else _NOTHING


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_CREDIBLE:
        return None
    return value


def is_truncated(message: BaseMessage) -> bool:
    """Whether the answer ended at the output cap."""
    metadata = message.response_metadata
    return (metadata.get("finish_reason") or metadata.get("stop_reason")) in _TRUNCATED
