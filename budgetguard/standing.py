"""Standing: what has happened to a task so far, and the outcome that follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from budgetguard.efforts.scale import lower

if TYPE_CHECKING:
    from collections.abc import Iterable

    from budgetguard.admission import Short
    from budgetguard.efforts import Effort
    from budgetguard.errors import BudgetExceeded
    from budgetguard.loops import Loop
    from budgetguard.plan import End
    from budgetguard.spend import Vector
    from budgetguard.stores.memory import Account

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
        "_latched_at", "calls", "closed", "degraded", "effort", "error", "exceeded", "finished",
        "latched", "latched_by", "lowered", "rung",
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
        self._latched_at: list[tuple[Account, str, Vector]] = []
        """Window and extension of the accounts it depends on; with others, the latch is off."""
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

    def latch(
        self, short: Short, end: End, accounts: Iterable[Account], by: Loop | None = None
    ) -> None:
        """Note that the ending was delivered, the first time.

        Args:
            short: Where there is no room.
            end: The ending.
            accounts: What it depends on.
            by: The loop whose last call it is.
        """
        if self.latched is None:
            self.latched, self.latched_by = (short, end), by
            self._latched_at = [(each, each.window, each.extra) for each in accounts]

    def unlatch(self) -> None:
        """Take calls again, also of a loop that had its last one."""
        if self.latched_by is not None:
            self.latched_by.granted = False
        self.latched = self.latched_by = None
        self._latched_at = []

    def unlatch_if_renewed(self) -> None:
        """Take calls again if an account has started anew since, or somebody extended it."""
        for account, window, extra in self._latched_at:
            if account.window != window or account.extra != extra:
                self.unlatch()
                return

    def admit(self, effort: Effort | None, rung: int) -> None:
        """Count an admitted call, and keep the effort and the rung it was planned with."""
        effort = lower(self.effort, effort)  # a call planned before another lowered it
        if effort != self.effort:
            self.lowered = self.lowered or self.calls > 0
            self.effort = effort
        self.rung = rung
        self.calls += 1
