"""State: what a policy may look at when it is asked about the next call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgetguard.difficulty import UNKNOWN, Difficulty
from budgetguard.spend import METERS, ZERO, Limits, Meter, Spend, Vector

if TYPE_CHECKING:
    from budgetguard.budget import Budget, Stakes
    from budgetguard.call import Call
    from budgetguard.efforts import Effort


class State:
    """What a policy may look at: the scope that asks it, at this moment, and the call to come.

    A frozen snapshot. The public forms (`spent`, `held`, `remaining`) are built when asked for.
    """

    __slots__ = (
        "_budget", "_call", "_difficulty", "_effort", "_elapsed", "_fullest",
        "_held", "_held_limits", "_limits", "_rung", "_settled", "_turn",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 -- one argument for each thing a policy may see
        self,
        budget: Budget,
        call: Call,
        *,
        limits: Limits | None = None,
        held_limits: tuple[tuple[int, int], ...] | None = None,
        settled: Vector = ZERO,
        held: Vector = ZERO,
        elapsed: float = 0.0,
        turn: int = 1,
        difficulty: Difficulty = UNKNOWN,
        effort: Effort | None = None,
        rung: int = 0,
    ) -> None:
        self._budget = budget
        self._call = call
        self._limits = budget.limits if limits is None else limits
        self._held_limits = budget.held_limits if held_limits is None else held_limits
        self._settled = settled
        self._held = held
        self._elapsed = elapsed
        self._turn = turn
        self._difficulty = difficulty
        self._effort: Effort | None = effort
        self._rung = rung
        self._fullest: float | None = -1.0

    @property
    def budget(self) -> Budget:
        """The specification of the scope whose policy is asked."""
        return self._budget

    @property
    def call(self) -> Call:
        """The model call to be made."""
        return self._call

    @property
    def spent(self) -> Spend:
        """What is settled in this scope and below it."""
        return Spend.of(self._settled, self._elapsed)

    @property
    def held(self) -> Spend:
        """What calls in flight hold."""
        return Spend.of(self._held)

    @property
    def limits(self) -> Limits:
        """The limits of this scope, with what they were extended by."""
        return self._limits

    @property
    def remaining(self) -> Limits:
        """Limit minus settled for each limited meter, at least 0."""
        return remaining(self._limits, self.spent)

    @property
    def turn(self) -> int:
        """Number of the call to be made, 1 for the first."""
        return self._turn

    @property
    def difficulty(self) -> Difficulty:
        """What is known of the task's difficulty; confidence 0 if nothing."""
        return self._difficulty

    @property
    def stakes(self) -> Stakes:
        """How bad a wrong answer is: `low`, `normal` or `high`."""
        return self._budget.stakes

    @property
    def effort(self) -> Effort | None:
        """The effort this task was lowered to; `None` while nothing was lowered."""
        return self._effort

    @property
    def rung(self) -> int:
        """The rung of the ladder in use; 0 is the user's model."""
        return self._rung

    def fraction(self, meter: Meter | None = None) -> float | None:
        """Settled / limit of a meter, or of the fullest limited one; `None` without a limit."""
        if meter is not None:
            limit = getattr(self._limits, meter)
            return None if limit is None else float(getattr(self.spent, meter) / limit)
        if self._fullest == -1.0:
            self._fullest = self._find_fullest()
        return self._fullest

    def _find_fullest(self) -> float | None:
        settled = self._settled
        seconds = self._limits.seconds
        fullest = None if seconds is None else self._elapsed / seconds
        for meter, limit in self._held_limits:
            fraction = settled[meter] / limit
            if fullest is None or fraction > fullest:
                fullest = fraction
        return fullest


def remaining(limits: Limits, spent: Spend) -> Limits:
    """Limit minus spent for each limited meter, never below 0."""
    left = {
        name: max(limit - getattr(spent, name), type(limit)(0))
        for name in METERS
        if (limit := getattr(limits, name)) is not None
    }
    return Limits(**left)
