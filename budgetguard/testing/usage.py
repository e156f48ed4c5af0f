"""Usage: what one exchange really cost, as the provider bills it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from budgetguard.testing.tokens import count_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgetguard.testing.answer import Answer
    from budgetguard.testing.request import Request


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens billed for one exchange; all 0 for one that was refused."""

    input_tokens: int = 0
    """The whole prompt, cached tokens included."""
    output_tokens: int = 0
    """Everything produced, reasoning included, over all choices."""
    reasoning_tokens: int = 0
    """The part of the output that was reasoning."""
    cached_tokens: int = 0
    """The part of the input that was read from the prompt cache."""
    cache_write_tokens: int = 0
    """The part of the input that was written to the prompt cache."""

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def cut(self, share: float) -> Usage:
        """The same with only that share (0..1) of the visible output.

        The prompt and the reasoning come before the first chunk, so they stay whole.
        """
        visible = self.output_tokens - self.reasoning_tokens
        return replace(self, output_tokens=self.reasoning_tokens + int(visible * share))


def bill(request: Request, answers: Sequence[Answer]) -> Usage:
    """What the whole of these answers costs; the first says what the prompt was."""
    first = answers[0].reply
    prompt = count_input(request.body) if first.input_tokens is None else first.input_tokens
    cached = min(first.cached_tokens, prompt)
    reasoning = sum(answer.reasoning_tokens for answer in answers)
    return Usage(
        input_tokens=prompt,
        output_tokens=reasoning + sum(answer.visible_tokens for answer in answers),
        reasoning_tokens=reasoning,
        cached_tokens=cached,
        cache_write_tokens=min(first.cache_write_tokens, prompt - cached),
    )
