"""Answer: what the model really produced of a Reply, under the output cap of the request.

Invariant: reasoning comes first and counts against the cap; what does not fit was never produced,
is not sent and is not billed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from budgetguard.testing.tokens import count, cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from budgetguard.testing.reply import Reply, ToolCall
    from budgetguard.testing.request import Request


@dataclass(frozen=True, slots=True)
class SpokenCall:
    """A tool call as produced: its JSON may end early at the output cap."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice as produced."""

    text: str
    calls: tuple[SpokenCall, ...]
    reasoning_tokens: int
    visible_tokens: int
    end: Literal["stop", "tools", "length"]
    """Why it ended: it was finished, it calls tools, or it met the output cap."""
    thinks: bool
    """Whether reasoning was allowed, used or not."""
    reply: Reply


def produce(request: Request, reply: Reply) -> Answer:
    """What the model produces of a reply within the request's limits."""
    calls = () if request.tools_off else tuple(_spoken(request, reply.tool_calls))
    thought = reply.reasoning_tokens if request.thinks else 0
    if request.thinking_budget is not None:
        thought = min(thought, request.thinking_budget)
    real = count(reply.text) + sum(_weight(call) for call in calls)
    wanted = real if reply.output_tokens is None else reply.output_tokens
    cap = thought + wanted if request.output_cap is None else request.output_cap
    reasoning = min(thought, cap)
    visible = min(wanted, cap - reasoning)
    whole = visible == wanted and reasoning == thought
    kept = real if whole else real * visible // max(wanted, 1)
    return Answer(
        text=cut(reply.text, kept),
        calls=tuple(_cut(calls, kept - count(reply.text))),
        reasoning_tokens=reasoning,
        visible_tokens=visible,
        end=("tools" if calls else "stop") if whole else "length",
        thinks=request.thinks,
        reply=reply,
    )


def _spoken(request: Request, calls: tuple[ToolCall, ...]) -> Iterator[SpokenCall]:
    prefix = "call" if request.api == "openai" else "toolu"
    for position, call in enumerate(calls, start=1):
        made = f"{prefix}_loopback_{request.index}_{request.choice}_{position}"
        yield SpokenCall(call.id or made, call.name, json.dumps(dict(call.arguments)))


def _weight(call: SpokenCall) -> int:
    return count(call.name) + count(call.arguments)


def _cut(calls: tuple[SpokenCall, ...], tokens: int) -> Iterator[SpokenCall]:
    for call in calls:
        tokens -= count(call.name)
        if tokens < 0:
            return
        yield SpokenCall(call.id, call.name, cut(call.arguments, tokens))
        tokens -= count(call.arguments)
