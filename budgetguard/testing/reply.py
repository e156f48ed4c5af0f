"""Reply: what the scripted model says to one request, and what that is said to have cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call the model makes."""

    name: str
    """The tool's name, as the request offers it."""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The arguments, sent as JSON."""
    id: str | None = None
    """The id of the call; `None`: one is made, unique within the provider."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says: text, tool calls, or both.

    Raises:
        ValueError: A count or a delay is negative, or `chunks` is below 1.
    """

    text: str = ""
    """The visible text."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The tool calls, several for parallel ones. A request with its tools off gets none of them,
    as from a real model; it gets the text."""
    reasoning_tokens: int = 0
    """Tokens thought before answering, billed as output; 0 wherever the request or the model does
    not think, and never more than Anthropic's `budget_tokens`."""
    output_tokens: int | None = None
    """Take the visible output to be exactly this many tokens, whatever it says; `None`: count."""
    input_tokens: int | None = None
    """Take the prompt to be this many tokens, cached ones included; `None`: count."""
    cached_tokens: int = 0
    """How many of the input tokens were read from the prompt cache."""
    cache_write_tokens: int = 0
    """How many of the input tokens were written to the prompt cache."""
    usage: Mapping[str, Any] | None = None
    """Report this usage object instead of the true one (which is still what the provider bills
    and logs); `None`: report the truth."""
    delay_s: float = 0.0
    """Seconds before the answer starts."""
    chunk_delay_s: float = 0.0
    """Seconds between two chunks of a stream."""
    chunks: int = 4
    """Into how many pieces a stream cuts the text; fewer if it has fewer tokens."""

    def __post_init__(self) -> None:
        counts = (self.reasoning_tokens, self.cached_tokens, self.cache_write_tokens)
        overrides = (self.output_tokens or 0, self.input_tokens or 0)
        if min(*counts, *overrides, self.delay_s, self.chunk_delay_s) < 0:
            raise ValueError("a Reply's counts and delays must not be negative")
        if self.chunks < 1:
            raise ValueError(f"chunks must be at least 1, not {self.chunks}")
