"""Call: what is known of a model call before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from budgetguard.efforts.scale import EFFORTS, at_most, is_lower

if TYPE_CHECKING:
    from collections.abc import Hashable

    from budgetguard.efforts.scale import Effort


class Call(NamedTuple):
    """A model call to be admitted."""

    model: str = ""
    """Name of the model the caller wants."""
    provider: str | None = None
    """Who serves it (`openai`, `anthropic`, ...); helps to find the price."""
    input_tokens: int = 0
    """Upper estimate of the tokens to be sent."""
    max_output_tokens: int | None = None
    """The caller's own output cap; `None` if the caller set none."""
    effort: Effort | None = None
    """The effort the caller set, else the model's default; `None`: unknown, or it has none."""
    levels: tuple[Effort, ...] = EFFORTS
    """The efforts that can be set on this call; empty where none can."""
    thinks: bool = False
    """Whether the model will think (reason) before it answers."""
    thinking_tokens: int | None = None
    """The caller's own thinking budget; `None` if the caller set none."""
    tools: bool = False
    """Whether tools are offered."""
    loop: tuple[Hashable, ...] = ()
    """Ids of the agent loops this call is in, outermost first, its own last; empty outside."""
    n: int = 1
    """Completions asked for."""
    model_max_output: int | None = None
    """The most output tokens the model can produce; `None` if unknown."""
    can_change_model: bool = True
    """Whether the adapter can put another model in its place, as a ladder asks."""

    def effort_under(self, planned: Effort | None) -> Effort | None:
        """The effort it will have: the planned one, or the next that can be set, if lower."""
        if self.effort is None or planned is None or not is_lower(planned, self.effort):
            return self.effort
        level = at_most(planned, self.levels)
        return level if level is not None and is_lower(level, self.effort) else self.effort
