"""Recorded runs: twenty real conversations of a real model, replayed through a loopback provider.

They are the airline tasks of tau-bench with gpt-4o as the agent and another model as the customer
(`data/README.md` has source and licence). Told faithfully, oddities included:

- The customer ends a conversation by a message with `###STOP###`, which nobody answered. It is in
  `messages`, not in `user_messages`.
- Four conversations end with a tool's result, nothing said after it: three with a transfer to a
  human, one out of turns. A replay says a fixed sentence there.
- The recorded ids of tool calls repeat. Each repetition has got a suffix `_2`, `_3`, ..., so that
  an id names one call in all the runs.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from budgetguard.testing.reply import Reply, ToolCall
from budgetguard.testing.shapes import Json, table, tables, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from budgetguard.testing.request import Request

FINAL_TEXT: Final = (
    "I cannot use my tools any more, so this is where I stop. What was done so far stands; "
    "the rest is still open."
)
"""Said for a recorded tool call when the request has its tools off."""

END_TEXT: Final = "The recording ends here."
"""Said where the recorded conversation has no further turn of the assistant."""

_JSON_TYPES: Final[dict[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
}


@dataclass(frozen=True)
class RecordedRun:
    """One recorded conversation."""

    task_id: int
    """The number of the tau-bench airline task."""
    trial: int
    """Which attempt at the task, 0 or 1."""
    reward: float
    """1.0 if the customer's task was solved, else 0.0, as tau-bench scored it."""
    system: str
    """The system prompt, the same for every run."""
    messages: tuple[Json, ...]
    """Every message after the system prompt, in OpenAI's form."""

    @property
    def user_messages(self) -> tuple[str, ...]:
        """What the customer said and the assistant answered: each is one run of an agent."""
        answered = (m for m, after in pairwise(self.messages) if after["role"] == "assistant")
        return tuple(m["content"] for m in answered if m["role"] == "user")

    @property
    def turns(self) -> int:
        """How many turns of the assistant were recorded."""
        return len(self.spoken)

    @property
    def spoken(self) -> tuple[Json, ...]:
        """The assistant's messages, in order."""
        return tuple(m for m in self.messages if m["role"] == "assistant")

    @property
    def tool_calls(self) -> tuple[str, ...]:
        """The ids of the tool calls, in order."""
        return tuple(call["id"] for call in self._calls())

    def arguments(self) -> list[tuple[str, Json]]:
        """Every tool call as its tool's name and its arguments, in order."""
        functions = (call["function"] for call in self._calls())
        return [(function["name"], json.loads(function["arguments"])) for function in functions]

    def _calls(self) -> list[Json]:
        return [call for message in self.spoken for call in tables(message.get("tool_calls"))]


@cache
def airline_runs() -> tuple[RecordedRun, ...]:
    """The twenty runs, read from the package on first use."""
    packed = resources.files("budgetguard.testing").joinpath("data", "airline.jsonl.gz")
    head, *lines = gzip.decompress(packed.read_bytes()).decode().strip().split("\n")
    system = json.loads(head)["system"]
    rows = (json.loads(line) for line in lines)
    return tuple(
        RecordedRun(
            row["task_id"], row["trial"], row["reward"], system, messages=tuple(row["messages"])
        )
        for row in rows
    )


@cache
def _tool_answers() -> dict[str, str]:
    messages = (message for run in airline_runs() for message in run.messages)
    return {m["tool_call_id"]: m["content"] for m in messages if m["role"] == "tool"}


def tool_answer(tool_call_id: str) -> str:
    """What the recorded tool answered to that call.

    Raises:
        KeyError: No recorded run has a call of that id.
    """
    return _tool_answers()[tool_call_id]


def recorded_tool_names(runs: Iterable[RecordedRun]) -> tuple[str, ...]:
    """The names of the tools that were called in these runs, sorted."""
    return tuple(sorted({name for run in runs for name, _ in run.arguments()}))


def tool_schemas(runs: Iterable[RecordedRun]) -> tuple[Json, ...]:
    """The tools called in these runs in OpenAI's form, their parameters inferred from the calls.

    A parameter is required if every recorded call has it.
    """
    called: dict[str, list[Json]] = {}
    for run in runs:
        for name, arguments in run.arguments():
            called.setdefault(name, []).append(arguments)
    return tuple(
        {
            "type": "function",
            "function": {
                "name": name,
                "description": f"The airline's tool `{name}`, as recorded.",
                "parameters": _object_schema(called[name]),
            },
        }
        for name in sorted(called)
    )


def _schema(values: Sequence[Any]) -> Json:
    kinds = {_JSON_TYPES[type(value)] for value in values}
    if len(kinds) != 1:
        return {}  # nothing seen, or several types: any value will do
    kind = kinds.pop()
    if kind == "array":
        return {"type": kind, "items": _schema([item for value in values for item in value])}
    return _object_schema(values) if kind == "object" else {"type": kind}


def _object_schema(values: Sequence[Json]) -> Json:
    names = list(dict.fromkeys(name for value in values for name in value))
    seen = {name: [value[name] for value in values if name in value] for name in names}
    return {
        "type": "object",
        "properties": {name: _schema(seen[name]) for name in names},
        "required": [name for name in names if len(seen[name]) == len(values)],
    }


def replay(
    runs: Iterable[RecordedRun], *, final_text: str = FINAL_TEXT, end_text: str = END_TEXT
) -> Callable[[Request], Reply]:
    """A script that says what the assistant said, with the recorded tool calls and their ids.

    The run is known by its first user message, the turn by the number of assistant messages: it
    remembers nothing between requests, so runs may be replayed at once, repeatedly, in any order.

    Args:
        runs: The runs that may be asked for.
        final_text: Said instead of a tool call when the request has its tools off.
        end_text: Said where the recording has no further turn of the assistant.

    Raises:
        ValueError: Two of the runs begin with the same user message.
    """
    by_first: dict[str, RecordedRun] = {}
    for run in runs:
        if by_first.setdefault(run.user_messages[0], run) is not run:
            raise ValueError(f"two runs begin with {run.user_messages[0]!r}")

    def say(request: Request) -> Reply:
        turn = _turn(by_first[_first_user_message(request)], request)
        if turn is None:
            return Reply(end_text)
        if turn.get("tool_calls") and request.tools_off:
            return Reply(final_text)
        return Reply(turn.get("content") or "", tool_calls=_calls(turn))

    return say


def _turn(run: RecordedRun, request: Request) -> Json | None:
    position = sum(1 for message in request.messages if message.get("role") == "assistant")
    return run.spoken[position] if position < run.turns else None


def _first_user_message(request: Request) -> str:
    said = (m for m in request.messages if m.get("role") == "user")
    return words(table(next(said, None)).get("content"))


def _calls(turn: Json) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(call["function"]["name"], json.loads(call["function"]["arguments"]), call["id"])
        for call in tables(turn.get("tool_calls"))
    )
