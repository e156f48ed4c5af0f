"""One scale of reasoning effort for every provider, and how much thinking each level means."""

from __future__ import annotations

from typing import Final, Literal, get_args

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How hard a model may think, from not at all to as hard as it can."""

EFFORTS: Final[tuple[Effort, ...]] = get_args(Effort)
"""The levels, weakest first."""

_RANK: Final[dict[Effort, int]] = {level: rank for rank, level in enumerate(EFFORTS)}

THINKING_TOKENS: Final[dict[Effort, int]] = {
    "none": 0,
    "minimal": 1_024,
    "low": 2_048,
    "medium": 8_192,
    "high": 16_384,
    "xhigh": 32_768,
    "max": 65_536,
}
"""Room for thinking, in tokens, that a call of this effort is given before anything was learned.

Our own choice: recorded reasoning runs think 4k tokens in the median and 12k to 14k at the 90th
percentile on mathematics and logic at the vendors' default effort; 1,024 is the smallest thinking
budget Anthropic accepts.
"""


def as_effort(value: object, *, name: str = "effort") -> Effort:
    """The level that `value` names.

    Raises:
        ValueError: If it names none; the message lists the levels.
    """
    if value not in _RANK:
        msg = f"{name} must be one of {', '.join(EFFORTS)}, not {value!r}"
        raise ValueError(msg)
    return value


def lower(a: Effort | None, b: Effort | None) -> Effort | None:
    """The weaker of two levels; `None` means "no opinion" and loses against any level."""
    if a is None or b is None:
        return b if a is None else a
    return a if _RANK[a] <= _RANK[b] else b


def is_lower(a: Effort, b: Effort) -> bool:
    """Whether `a` thinks less than `b`."""
    return _RANK[a] < _RANK[b]


def one_less(level: Effort) -> Effort:
    """The next weaker level; `none` stays `none`."""
    return EFFORTS[max(0, _RANK[level] - 1)]


def effort_of(thinking_tokens: int) -> Effort:
    """The level whose room for thinking is at least this many tokens."""
    for level in EFFORTS:
        if thinking_tokens <= THINKING_TOKENS[level]:
            return level
    return "max"


def at_most(level: Effort, allowed: tuple[Effort, ...]) -> Effort | None:
    """The strongest allowed level that is not above `level`, else the weakest allowed one.

    Less thinking never becomes none at all: `none` is chosen only when `none` is asked for.

    Returns:
        `None` when nothing is allowed.
    """
    ranks = sorted(_RANK[each] for each in allowed if each != "none" or level == "none")
    below = [rank for rank in ranks if rank <= _RANK[level]]
    if below:
        return EFFORTS[below[-1]]
    return EFFORTS[ranks[0]] if ranks else None
