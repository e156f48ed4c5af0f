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

_TRUNCATED: Final = frozenset({"length", "max_tokens", "MAX_TOKENS"})


def is_cache_hit(generations: Sequence[Generation]) -> bool:
    """Whether LangChain's own cache answered, so that nothing was sent."""
    return any(_metadata(message).get("total_cost") == 0 for message in _answers(generations))


def usage_of(generations: Sequence[Generation], ticket: Ticket) -> Usage:
    """The bill of one call; what the provider did not credibly report is estimated and flagged."""
    answers = list(_answers(generations))
    first = answers[0] if answers else None
    metadata = _metadata(first)
    truncated = any(is_truncated(message) for message in answers)
    return read(metadata, answers, ticket, truncated=truncated)


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
    written = sum(
        _count(value) or 0
        for key, value in details.items()
        if key == "cache_creation" or key.startswith("ephemeral_")
    )
    lasting = _count(details.get("ephemeral_1h_input_tokens")) or 0
    read_tokens = min(_count(details.get("cache_read")) or 0, sent)
    return Usage(
        input_tokens=sent,
        output_tokens=received,
        reasoning_tokens=min(reasoning, received),
        cache_read_tokens=read_tokens,
        cache_write_tokens=min(written, sent - read_tokens),
        cache_write_1h_tokens=min(lasting, written, sent - read_tokens),
        estimated=estimated,
        truncated=truncated,
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


def wants_tools(generations: Sequence[Generation]) -> bool:
    """Whether the answer asks for a tool, so that its agent loop goes on."""
    return any(
        isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls)
        for message in _answers(generations)
    )


def _answers(generations: Sequence[Generation]) -> Iterable[BaseMessage]:
    for generation in generations:
        message = getattr(generation, "message", None)
        if message is not None:
            yield message


def _metadata(message: BaseMessage | None) -> Mapping[str, Any]:
    found = getattr(message, "usage_metadata", None)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _details(metadata: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = metadata.get(name)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_CREDIBLE:
        return None
    return value


def is_truncated(message: BaseMessage) -> bool:
    """Whether the answer ended at the output cap."""
    metadata = message.response_metadata
    return (metadata.get("finish_reason") or metadata.get("stop_reason")) in _TRUNCATED
