"""Request: one request as a script sees it, the differences between the two APIs read away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from budgetguard.testing.families import anthropic_family, openai_family
from budgetguard.testing.shapes import Json, number, table, tables, words

Api: TypeAlias = Literal["openai", "anthropic"]
"""Which API was called: OpenAI Chat Completions or Anthropic Messages."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to the loopback provider. It carries no header, hence no API key."""

    api: Api
    """The API that was called."""
    model: str
    """The model asked for."""
    messages: list[Json]
    """The messages, parsed and otherwise as sent."""
    body: Json
    """The whole body, parsed and otherwise as sent."""
    stream: bool
    """Whether the answer is to be streamed."""
    tools: tuple[str, ...]
    """The names of the tools offered, also when `tool_choice` turns them off."""
    tools_off: bool
    """Whether the model cannot call a tool: none offered, or `tool_choice` is none."""
    index: int
    """The number of this request, from 1."""
    choice: int = 0
    """Which of the `n` choices of an OpenAI request is asked for, from 0."""

    @classmethod
    def parse(cls, api: Api, body: Json, *, index: int) -> Request:
        """Read a request out of a parsed body, whatever its form."""
        tools = tuple(_tool_name(tool) for tool in tables(body.get("tools")))
        choice = body.get("tool_choice")
        none = choice == "none" if api == "openai" else table(choice).get("type") == "none"
        return cls(
            api=api,
            model=str(body.get("model") or ""),
            messages=tables(body.get("messages")),
            body=body,
            stream=body.get("stream") is True,
            tools=tools,
            tools_off=none or not tools,
            index=index,
        )

    @property
    def choices(self) -> int:
        """How many answers are asked for: OpenAI's `n`, else 1."""
        return max(1, number(self.body.get("n")) or 1) if self.api == "openai" else 1

    @property
    def effort(self) -> str | None:
        """The reasoning effort as sent; `None` when the request names none."""
        if self.api == "openai":
            return self.body.get("reasoning_effort")
        return table(self.body.get("output_config")).get("effort")

    @property
    def output_cap(self) -> int | None:
        """The most output tokens allowed, reasoning included; `None`: no cap was sent."""
        cap = number(self.body.get("max_tokens"))
        if self.api == "openai" and cap is None:
            cap = number(self.body.get("max_completion_tokens"))
        return cap

    @property
    def thinking(self) -> str | None:
        """Anthropic's `thinking.type` as sent; `None` when there is none."""
        return table(self.body.get("thinking")).get("type")

    @property
    def thinking_budget(self) -> int | None:
        """Anthropic's `thinking.budget_tokens`; `None` when there is none."""
        return number(table(self.body.get("thinking")).get("budget_tokens"))

    @property
    def thinks(self) -> bool:
        """Whether the model reasons on this request: the model can, and the request lets it."""
        if self.api == "anthropic":
            family = anthropic_family(self.model)
            by_default = family is not None and family.thinks_by_default
            return by_default if self.thinking is None else self.thinking != "disabled"
        known = openai_family(self.model)
        if known is not None and not known.efforts:
            return False
        return (self.effort or (known.default_effort if known else "medium")) != "none"

    @property
    def prompt(self) -> str:
        """The text of the last user message; empty when there is none."""
        said = (words(m.get("content")) for m in reversed(self.messages) if m.get("role") == "user")
        return next((text for text in said if text), "")


def _tool_name(tool: Json) -> str:
    kind = tool.get("type")
    inner = table(tool.get(kind)) if isinstance(kind, str) else {}
    return str(inner.get("name") or tool.get("name") or "")
