"""Plan: what the next call may do. Plans meet; a meet is never looser than either side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from budgetguard.efforts.scale import lower

if TYPE_CHECKING:
    from budgetguard.efforts.scale import Effort

End = Literal["stop", "fail"]
"""How a budget ends: quietly with a typed message, or with `BudgetExceeded`."""

_END_RANK: Final[dict[End | None, int]] = {None: 0, "stop": 1, "fail": 2}


class Plan(NamedTuple):
    """What the next call may do. The empty Plan allows everything; `a & b` is the stricter."""

    effort: Effort | None = None
    """At most this reasoning effort; `None`: no opinion."""
    thinking_tokens: int | None = None
    """At most this many thinking tokens, where the provider takes a budget; `None`: no opinion."""
    max_output_tokens: int | None = None
    """At most this many output tokens, reasoning included; `None`: no opinion."""
    rung: int = 0
    """At least this rung of the ladder of cheaper models; 0 is the user's own model."""
    final: bool = False
    """Whether a call in an agent loop is its last one: tools off, an answer asked for."""
    end: End | None = None
    """What happens instead of this call: `stop` or `fail`; `None`: the call is made."""

    def __and__(self, other: Plan) -> Plan:
        if other is EMPTY or other == self:
            return self
        if self is EMPTY:
            return other
        return Plan(
            lower(self.effort, other.effort),
            _smaller(self.thinking_tokens, other.thinking_tokens),
            _smaller(self.max_output_tokens, other.max_output_tokens),
            max(self.rung, other.rung),
            self.final or other.final,
            max(self.end, other.end, key=_END_RANK.__getitem__),
        )


EMPTY: Final = Plan()


def _smaller(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)
