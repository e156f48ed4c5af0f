"""The estimator protocol: any callable `Task -> float | Difficulty`, trusted with nothing.

An estimator that raises, or answers with something that is not a difficulty, is logged once and
counts as "I don't know", and then difficulty changes nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

_log = logging.getLogger("budgetguard")
_complained: set[str] = set()


@dataclass(frozen=True, slots=True)
class Task:
    """What an estimator is told of a task."""

    prompt: str | None = None
    """The text that started the task; `None` where it is not known."""
    budget: str = ""
    """Name of the budget, which is the name of the workflow."""


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard a task is."""

    score: float
    """0 (trivial) to 1 (nobody can)."""
    confidence: float = 1.0
    """0 ("I don't know", and then it changes nothing) to 1."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a score or confidence outside 0..1."""
        for name in ("score", "confidence"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                msg = f"difficulty {name} must be a number in 0..1, not {value!r}"
                raise TypeError(msg)
            if math.isnan(value) or not 0 <= value <= 1:
                msg = f"difficulty {name} must be in 0..1, not {value!r}"
                raise ValueError(msg)


UNKNOWN: Final = Difficulty(0.5, 0.0)
"""No opinion: no condition on difficulty fires."""

Estimate = float | Difficulty
Estimator = Callable[[Task], Estimate | Awaitable[Estimate]]
"""Anything that turns a Task into a number in 0..1, or a Difficulty; sync or async."""


def ask(estimator: Estimator, task: Task) -> Difficulty | Awaitable[Estimate]:
    """What a (possibly async) estimator says: a Difficulty, or something still to be awaited."""
    try:
        answer = estimator(task)
    except Exception as error:  # noqa: BLE001 -- observation never hurts
        return distrust(estimator, error)
    return answer if isinstance(answer, Awaitable) else understand(estimator, answer)


def understand(estimator: Estimator, answer: object) -> Difficulty:
    """The Difficulty that an estimator's answer means; unknown when it means none."""
    if isinstance(answer, Difficulty):
        return answer
    try:
        return Difficulty(answer)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError) as error:
        return distrust(estimator, error)


def distrust(estimator: Estimator, error: Exception | str) -> Difficulty:
    """Log once for each estimator that it failed, not what it said; the difficulty is unknown."""
    name = getattr(estimator, "__qualname__", type(estimator).__qualname__)
    if name not in _complained:
        _complained.add(name)
        why = error if isinstance(error, str) else type(error).__name__
        _log.warning("difficulty estimator %s gave no answer and is ignored: %s", name, why)
    return UNKNOWN
