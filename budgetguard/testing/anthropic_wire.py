"""The wire of Anthropic Messages: answers as its JSON and as its server-sent events."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from budgetguard.testing.event import Event
from budgetguard.testing.shapes import Json, table
from budgetguard.testing.tokens import count, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from budgetguard.testing.answer import Answer, SpokenCall
    from budgetguard.testing.request import Request
    from budgetguard.testing.usage import Usage

_STOP: Final = {"stop": "end_turn", "tools": "tool_use", "length": "max_tokens"}
_THOUGHT: Final = "Thinking it through."
_SIGNATURE: Final = "bG9vcGJhY2s="


def report(usage: Usage, *, thinks: bool) -> Json:
    """The true usage object: `input_tokens` without what the cache read or wrote."""
    written = usage.cache_write_tokens
    whole: Json = {
        "input_tokens": usage.input_tokens - usage.cached_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": usage.output_tokens,
        "service_tier": "standard",
    }
    if thinks:
        whole["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return whole


def body(request: Request, answers: Sequence[Answer], usage: Json | None) -> Json:
    """The JSON answer; without a usage object if `usage` is `None`."""
    answer = answers[0]
    whole = _head(request) | {
        "content": [block for block, _ in _blocks(request, answer)],
        "stop_reason": _STOP[answer.end],
    }
    return whole if usage is None else whole | {"usage": usage}


def events(request: Request, answers: Sequence[Answer], usage: Json | None) -> list[Event]:
    """The answer as a stream: usage at the start, and the final one before the end."""
    answer = answers[0]
    start, delta = _head(request), {"stop_reason": _STOP[answer.end], "stop_sequence": None}
    end: Json = {"type": "message_delta", "delta": delta}
    if usage is not None:
        start["usage"] = usage | {"output_tokens": 1}
        end["usage"] = usage
    stream = [_event({"type": "message_start", "message": start})]
    for index, (block, deltas) in enumerate(_blocks(request, answer)):
        stream.extend(_block_events(index, block, deltas))
    return [*stream, _event(end), _event({"type": "message_stop"})]


def _head(request: Request) -> dict[str, Any]:
    return {
        "id": f"msg_loopback_{request.index}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _blocks(request: Request, answer: Answer) -> Iterator[tuple[Json, list[Json]]]:
    """Each block whole, with the deltas that make it up in a stream."""
    # With a budget the real API always opens with a thinking block, adaptively only if it thought.
    if answer.thinks and (answer.reasoning_tokens or request.thinking == "enabled"):
        yield _thinking(request)
    if answer.text:
        parts = pieces(answer.text, answer.reply.chunks)
        deltas = [{"type": "text_delta", "text": part} for part in parts]
        yield {"type": "text", "text": answer.text}, deltas
    for call in answer.calls:
        yield _tool_use(call)


def _thinking(request: Request) -> tuple[Json, list[Json]]:
    omitted = table(request.body.get("thinking")).get("display") == "omitted"
    thought = "" if omitted else _THOUGHT
    block = {"type": "thinking", "thinking": thought, "signature": _SIGNATURE}
    deltas = [{"type": "thinking_delta", "thinking": thought}] if thought else []
    return block, [*deltas, {"type": "signature_delta", "signature": _SIGNATURE}]


def _tool_use(call: SpokenCall) -> tuple[Json, list[Json]]:
    arguments: Json = {}
    # Cut at the output cap it is no JSON: then a stream shows the part there is, JSON shows none.
    with suppress(json.JSONDecodeError):
        arguments = json.loads(call.arguments)
    block = {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}
    parts = pieces(call.arguments, 2)
    return block, [{"type": "input_json_delta", "partial_json": part} for part in parts]


def _block_events(index: int, block: Json, deltas: list[Json]) -> Iterator[Event]:
    empty = block | {key: type(block[key])() for key in _GROWS[block["type"]]}
    name = count(str(block.get("name", "")))
    yield _event({"type": "content_block_start", "index": index, "content_block": empty}, name)
    for delta in deltas:
        said = str(delta.get("text") or delta.get("partial_json") or "")
        yield _event({"type": "content_block_delta", "index": index, "delta": delta}, count(said))
    yield _event({"type": "content_block_stop", "index": index})


_GROWS: Final = {"text": ("text",), "thinking": ("thinking", "signature"), "tool_use": ("input",)}
"""The keys of each kind of block that start empty in a stream."""


def _event(data: Json, tokens: int = 0) -> Event:
    return Event(data, name=data["type"], tokens=tokens)
