"""Standing: what has happened to a task so far, and the outcome that follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from budgetguard.efforts.scale import lower

if TYPE_CHECKING:
    from budgetguard.admission import Short
    from budgetguard.efforts import Effort
    from budgetguard.errors import BudgetExceeded
    from budgetguard.loops import Loop
    from budgetguard.plan import End

Outcome = Literal["refused", "error", "stopped", "finished", "degraded", "completed"]
"""How a task went; the first that applies, in this order."""


class Counts(NamedTuple):
    """What became of the calls of a scope."""

    admitted: int
    settled: int
    released: int

    @property
    def in_flight(self) -> int:
        """Calls that are neither settled nor released."""
        return self.admitted - self.settled - self.released


class Standing:
    """The flags of a scope. What admission relies on changes under the store's lock."""

    __slots__ = (
        "calls", "closed", "degraded", "effort", "error", "exceeded", "finished",
        "latched", "latched_by", "latched_in", "lowered", "rung",
        "stopped", "told_effort", "told_rung",
    )  # fmt: skip

    def __init__(self) -> None:
        self.calls = 0
        """Calls admitted directly in this scope or below it."""
        self.effort: Effort | None = None
        """The effort the task was lowered to; it never goes up."""
        self.lowered = False
        """Whether the effort was lowered after the first call."""
        self.rung = 0
        self.told_effort: Effort | None = None
        """The effort, and the rung, of the last event that reported one."""
        self.told_rung = 0
        self.latched: tuple[Short, End] | None = None
        """The ending that was delivered; every later admission is refused alike."""
        self.latched_by: Loop | None = None
        """The loop whose last call was that ending; `None` if it was a refusal or a stop."""
        self.latched_in = ""
        """The window of the account that was short then; in another, the latch is off."""
        self.exceeded: BudgetExceeded | None = None
        self.error = False
        self.stopped = False
        self.finished = False
        self.degraded = False
        self.closed = False

    def outcome(self) -> Outcome:
        """The outcome as far as it is known."""
        if self.exceeded is not None:
            return "refused"
        if self.error:
            return "error"
        if self.stopped:
            return "stopped"
        if self.finished:
            return "finished"
        return "degraded" if self.degraded else "completed"

    def latch(self, short: Short, end: End, by: Loop | None = None) -> None:
        """Note that the ending was delivered, the first time."""
        if self.latched is None:
            self.latched, self.latched_by = (short, end), by
            self.latched_in = short.scope.account.window

    def unlatch(self) -> None:
        """Take calls again."""
        self.latched = self.latched_by = None

    def unlatch_in_new_window(self) -> None:
        """Take calls again if the account that was short has started anew since."""
        if self.latched is not None and self.latched[0].scope.account.window != self.latched_in:
            self.unlatch()

    def admit(self, effort: Effort | None, rung: int) -> None:
        """Count an admitted call, and keep the effort and the rung it was planned with."""
        effort = lower(self.effort, effort)  # a call planned before another lowered it
        if effort != self.effort:
            self.lowered = self.lowered or self.calls > 0
            self.effort = effort
        self.rung = rung
        self.calls += 1
