"""Reading: what can be read of a scope, while it is open and after it was closed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from budgetguard.errors import StoreUnavailableError
from budgetguard.spend import METERS, ZERO, Limits, Spend, Vector
from budgetguard.standing import Counts, Outcome, Standing
from budgetguard.state import remaining
from budgetguard.stores.memory import STORE

if TYPE_CHECKING:
    from budgetguard.budget import Budget
    from budgetguard.difficulty import Difficulty, Estimation
    from budgetguard.errors import BudgetExceeded
    from budgetguard.lineage import Lineage
    from budgetguard.stores.memory import Account


class Reading:
    """The read-only side of a Scope."""

    __slots__ = ()

    if TYPE_CHECKING:  # what a Scope keeps in its slots
        account: Account
        budget: Budget
        more_seconds: float
        standing: Standing
        lineage: Lineage
        estimation: Estimation
        _own: Vector
        _opened: float
        _closed_at: float | None

    @property
    def spent(self) -> Spend:
        """What was settled here and below; with an id, by every handle of the account."""
        self._renew()
        return Spend.of(self.account.settled, self.elapsed())

    @property
    def held(self) -> Spend:
        """What calls in flight hold."""
        self._renew()
        return Spend.of(self.account.held)

    @property
    def overshoot(self) -> Spend:
        """What providers billed beyond what was held."""
        return Spend.of(self.account.overshoot)

    @property
    def counts(self) -> Counts:
        """Calls admitted, settled and released here and below; the rest is in flight."""
        account = self.account
        return Counts(account.admitted, account.settlements, account.released)

    @property
    def own(self) -> Spend:
        """What was settled by calls made directly in this scope, not in a child."""
        return Spend.of(self._own)

    @property
    def remaining(self) -> Limits:
        """Limit minus settled, the least of the lineage but what is shielded; `None`: no limit."""
        scopes = (*self.lineage.answering, *self.lineage.observers)
        left = [remaining(each.limits, each.spent) for each in scopes]
        least = {
            name: min(amounts)
            for name in METERS
            if (amounts := [a for each in left if (a := getattr(each, name)) is not None])
        }
        return Limits(**least)

    @property
    def limits(self) -> Limits:
        """The limits, with what they were extended by."""
        extra = self.account.extra
        if extra is ZERO and not self.more_seconds:
            return self.budget.limits
        return self.budget.limits.plus(extra, self.more_seconds)

    @property
    def held_limits(self) -> tuple[tuple[int, int], ...]:
        """`(meter index, amount)` of every limit that is held before a call, extended."""
        extra = self.account.extra
        if extra is ZERO:
            return self.budget.held_limits
        return tuple((meter, limit + extra[meter]) for meter, limit in self.budget.held_limits)

    def limit_on(self, meter: int) -> int | None:
        """The limit of one meter that is held before a call, extended; `None` without."""
        return dict(self.held_limits).get(meter)

    @property
    def outcome(self) -> Outcome | None:
        """How the task went; `None` while the scope is open."""
        return self.standing.outcome() if self.standing.closed else None

    @property
    def exceeded(self) -> BudgetExceeded | None:
        """The first `BudgetExceeded` of this task, even if somebody swallowed it."""
        return self.standing.exceeded

    @property
    def difficulty(self) -> Difficulty:
        """What is known of the task's difficulty."""
        return self.estimation.difficulty

    def look_first(self) -> None:
        """Ask for balances that this process has never seen; a call will say what is wrong."""
        with contextlib.suppress(StoreUnavailableError):
            for group in self.lineage.shared:
                if not all(account.was_read for _, account in group.members):
                    group.refresh()

    def refresh(self) -> None:
        """Ask the stores for what they know now; what a scope tells is as of the last answer.

        Raises:
            StoreUnavailableError: If a store is out of reach.
        """
        for group in self.lineage.shared:
            group.refresh()

    async def arefresh(self) -> None:
        """Do what `refresh` does, without blocking the event loop."""
        await asyncio.to_thread(self.refresh)

    def _renew(self) -> None:
        """Start the account anew if its window is over."""
        if self.account.renewed is not None:
            with STORE.lock:
                self.account.renew()

    def elapsed(self) -> float:
        """Seconds from the opening to now, or to the closing."""
        return (self._closed_at or time.monotonic()) - self._opened
