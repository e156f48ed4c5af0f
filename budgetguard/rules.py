"""The vocabulary: conditions (`spent`, `harder_than`, ...) and actions (`effort`, `finish`, ...).

Each is a frozen value. The default policy at the end is written in nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from budgetguard.efforts.scale import as_effort
from budgetguard.plan import Plan
from budgetguard.policy import NEVER, Always, AnyPolicy, Condition, Policy, check_policy, when
from budgetguard.spend import METERS, Meter

if TYPE_CHECKING:
    from budgetguard.efforts import Effort
    from budgetguard.state import State


def _fraction(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name} must be a number in 0..1, not {value!r}"
        raise TypeError(msg)
    if math.isnan(value) or not 0 <= value <= 1:
        msg = f"{name} must be in 0..1 (a fraction, not percent), not {value!r}"
        raise ValueError(msg)
    return float(value)


def _count(value: object, name: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be a whole number, not {value!r}"
        raise TypeError(msg)
    if value < least:
        msg = f"{name} must be at least {least}, not {value}"
        raise ValueError(msg)
    return value


@dataclass(frozen=True, slots=True)
class _Spent(Condition):
    fraction: float
    of: Meter | None

    @property
    def quiet_below(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.fraction

    def __call__(self, state: State) -> bool | None:
        used = state.fraction(self.of)
        return None if used is None else used >= self.fraction


@dataclass(frozen=True, slots=True)
class _TurnsLeft(Condition):
    turns: int

    def __call__(self, state: State) -> bool | None:
        left = state.remaining.turns
        return None if left is None else left <= self.turns


@dataclass(frozen=True, slots=True)
class _Harder(Condition):
    than: float
    sure: float

    @property
    def quiet_below(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return NEVER if self.sure else 0.0

    def __call__(self, state: State) -> bool | None:
        difficulty = state.difficulty
        return None if difficulty.confidence < self.sure else difficulty.score > self.than


@dataclass(frozen=True, slots=True)
class _Easier(Condition):
    than: float
    sure: float

    @property
    def lowers_by_difficulty(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return True

    @property
    def quiet_below(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return NEVER if self.sure else 0.0

    def __call__(self, state: State) -> bool | None:
        difficulty = state.difficulty
        return None if difficulty.confidence < self.sure else difficulty.score < self.than


def spent(fraction: float, of: Meter | None = None) -> Condition:
    """True once at least this fraction of a limit is settled; what calls hold never counts.

    Args:
        fraction: Of the limit, 0..1.
        of: A meter; by default the fullest limited meter of the scope whose policy is asked.

    Raises:
        ValueError: If `fraction` is outside 0..1 or `of` is not a meter.
    """
    if of is not None and of not in METERS:
        msg = f"of must be one of {', '.join(METERS)}, not {of!r}"
        raise ValueError(msg)
    return _Spent(_fraction(fraction, "fraction"), of)


def turns_left(turns: int) -> Condition:
    """True when at most this many turns are left; unknown without a limit on turns.

    Raises:
        ValueError: If `turns` is negative.
        TypeError: If it is not a whole number.
    """
    return _TurnsLeft(_count(turns, "turns", least=0))


def harder_than(score: float, sure: float = 0.5) -> Condition:
    """True when the task is known to be harder; unknown below that confidence.

    Raises:
        ValueError: If `score` or `sure` is outside 0..1.
    """
    return _Harder(_fraction(score, "score"), _fraction(sure, "sure"))


def easier_than(score: float, sure: float = 0.5) -> Condition:
    """True when the task is known to be easier; unknown below that confidence.

    Raises:
        ValueError: If `score` or `sure` is outside 0..1.
    """
    return _Easier(_fraction(score, "score"), _fraction(sure, "sure"))


def effort(level: Effort) -> Policy:
    """Think at most this hard. Never raises what the user set.

    Raises:
        ValueError: If the level is not on the scale.
    """
    return Always(Plan(effort=as_effort(level, name="level")))


def cap_output(tokens: int) -> Policy:
    """At most this many output tokens a call, reasoning included.

    Raises:
        ValueError: If `tokens` is not positive.
        TypeError: If it is not a whole number.
    """
    return Always(Plan(max_output_tokens=_count(tokens, "tokens", least=1)))


def downgrade(rungs: int = 1) -> Policy:
    """Use at least this rung of the ladder of cheaper models; beyond the last means the last.

    Raises:
        ValueError: If `rungs` is not positive.
        TypeError: If it is not a whole number.
    """
    return Always(Plan(rung=_count(rungs, "rungs", least=1)))


def finish() -> Policy:
    """Make this call of an agent loop its last: tools off, an answer asked for."""
    return Always(Plan(final=True))


def stop() -> Policy:
    """End quietly: no call is made, the framework gets a typed final message."""
    return Always(Plan(end="stop"))


def fail() -> Policy:
    """End with `BudgetExceeded`: no call is made."""
    return Always(Plan(end="fail"))


@dataclass(frozen=True, slots=True)
class Observe(Policy):
    """A policy that is asked and recorded, and never obeyed; see `observe`."""

    inner: AnyPolicy

    def __call__(self, state: State) -> Plan:
        """What `inner` says."""
        return self.inner(state)


def observe(inner: AnyPolicy | None = None) -> Policy:
    """The shadow mode: decide, count and record everything; change and refuse nothing.

    Args:
        inner: What to decide by; the default policy if left out.

    Raises:
        TypeError: If `inner` is not callable.
    """
    policy = DEFAULT_POLICY if inner is None else inner
    check_policy(policy, name="inner")
    return Observe(policy)


DEFAULT_POLICY: Final[Policy] = (
    when(easier_than(0.3), effort("low"))
    + when(spent(0.5) & ~harder_than(0.8), effort("medium"))
    + when(spent(0.8), downgrade())
    + when(spent(0.95), finish())
    + when(spent(1.0), fail())
)
"""Less effort for easy tasks and past half of the budget, a cheaper model past 80 %, one last
answer with tools off past 95 %, then `BudgetExceeded`."""
