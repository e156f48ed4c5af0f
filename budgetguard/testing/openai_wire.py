"""The wire of OpenAI Chat Completions: answers as its JSON and as its server-sent events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from budgetguard.testing.event import Event
from budgetguard.testing.shapes import Json, table
from budgetguard.testing.tokens import count, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from budgetguard.testing.answer import Answer, SpokenCall
    from budgetguard.testing.request import Request
    from budgetguard.testing.usage import Usage

_FINISH: Final = {"stop": "stop", "tools": "tool_calls", "length": "length"}


def report(usage: Usage) -> Json:
    """The true usage object."""
    prompt = {"cached_tokens": usage.cached_tokens, "audio_tokens": 0}
    if usage.cache_write_tokens:
        prompt["cache_write_tokens"] = usage.cache_write_tokens
    completion = {
        "reasoning_tokens": usage.reasoning_tokens,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.tokens,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": completion,
    }


def body(request: Request, answers: Sequence[Answer], usage: Json | None) -> Json:
    """The JSON answer; without a usage object if `usage` is `None`."""
    choices = [
        {
            "index": index,
            "message": _message(answer),
            "logprobs": None,
            "finish_reason": _FINISH[answer.end],
        }
        for index, answer in enumerate(answers)
    ]
    whole = _head(request, "chat.completion") | {"choices": choices}
    return whole if usage is None else whole | {"usage": usage}


def events(request: Request, answers: Sequence[Answer], usage: Json | None) -> list[Event]:
    """The answer as a stream, with usage only where the request asks for it."""
    head = _head(request, "chat.completion.chunk")
    asked = table(request.body.get("stream_options")).get("include_usage") is True
    if asked and usage is not None:
        head["usage"] = None
    stream = [
        Event(head | {"choices": [choice]}, tokens=tokens)
        for index, answer in enumerate(answers)
        for choice, tokens in _choice(index, answer)
    ]
    if asked and usage is not None:
        stream.append(Event(head | {"choices": [], "usage": usage}))
    return [*stream, Event(None)]


def _head(request: Request, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-loopback-{request.index}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _message(answer: Answer) -> Json:
    message: Json = {
        "role": "assistant",
        "content": answer.text if answer.text or not answer.calls else None,
        "refusal": None,
        "annotations": [],
    }
    if answer.calls:
        message["tool_calls"] = [_call(call, call.arguments) for call in answer.calls]
    return message


def _call(call: SpokenCall, arguments: str) -> Json:
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _choice(index: int, answer: Answer) -> Iterator[tuple[Json, int]]:
    def choice(delta: Json, finish: str | None = None) -> Json:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    content = "" if answer.text or not answer.calls else None
    yield choice({"role": "assistant", "content": content, "refusal": None}), 0
    for piece in pieces(answer.text, answer.reply.chunks):
        yield choice({"content": piece}), count(piece)
    for position, call in enumerate(answer.calls):
        for delta, tokens in _call_deltas(position, call):
            yield choice({"tool_calls": [delta]}), tokens
    yield choice({}, _FINISH[answer.end]), 0


def _call_deltas(position: int, call: SpokenCall) -> Iterator[tuple[Json, int]]:
    yield {"index": position, **_call(call, "")}, count(call.name)
    for piece in pieces(call.arguments, 2):
        yield {"index": position, "function": {"arguments": piece}}, count(piece)
