"""Accounts in the memory of this process, and the one lock under which they change.

Invariant: under the lock, `settled + held <= limit` on every meter of every account that answers,
as long as no provider bills beyond its hold.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final

from budgetguard.forecast import FORECAST
from budgetguard.spend import ZERO, Vector, exceeds, excess, minus, plus
from budgetguard.stores.windows import window_at

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from budgetguard.stores.protocol import Window
    from budgetguard.stores.shares import Share
    from budgetguard.ticket import Ticket
    from budgetguard.waiting import Waiter

KEPT_S: Final = 24 * 3600.0
"""An account with an id is forgotten this many seconds after its last use."""

SWEEP_S: Final = 3600.0
"""How often, in seconds, forgotten accounts are looked for."""


class Account:
    """What one budget has spent and holds; shared by every handle that names the same id."""

    __slots__ = (
        "admitted", "elsewhere", "extra", "held", "last_used", "overshoot", "released",
        "renewed", "reserves", "settled", "settlements", "shares", "waiters", "window",
    )  # fmt: skip

    shared: ClassVar[bool] = False
    """Whether a store keeps it."""

    def __init__(self, renewed: Window | None = None) -> None:
        self.renewed: Window | None = renewed
        """How often it starts anew; `None`: never."""
        self.window = window_at(renewed, time.time())
        """The UTC hour, day or month that is counted; empty if it never starts anew."""
        self.settled = ZERO
        self.held = ZERO
        self.overshoot = ZERO
        self.extra = ZERO
        """By how much the limits were extended."""
        self.elsewhere = ZERO
        """What agent loops of other processes keep back for their last calls."""
        self.reserves: dict[Hashable, Vector] = {}
        """What each agent loop keeps back for its last call, by loop id."""
        self.shares: tuple[Share, ...] = ()
        """What is kept for children that were promised a part of it."""
        self.waiters: deque[Waiter] | None = None
        self.admitted = 0
        self.settlements = 0
        self.released = 0
        self.last_used = 0.0

    def hold(self, need: Vector) -> None:
        """Hold `need` until it is settled or released."""
        self.held = plus(self.held, need)
        self.admitted += 1
        self.last_used = time.monotonic()

    def settle(self, need: Vector, used: Vector) -> None:
        """Replace a hold by what was really used; what exceeds it is overshoot."""
        self.held = minus(self.held, need)
        self.settled = plus(self.settled, used)
        if exceeds(used, need):
            self.overshoot = plus(self.overshoot, excess(used, need))
        self.settlements += 1

    def unhold(self, need: Vector) -> None:
        """Forget a hold that did not come about, because another account had no room."""
        self.held = minus(self.held, need)
        self.admitted -= 1

    def release(self, need: Vector) -> None:
        """Give a hold back."""
        self.held = minus(self.held, need)
        self.released += 1

    def reserved_for_others(self, loop: Hashable) -> Vector:
        """What every agent loop but this one keeps back for its last call."""
        total = self.elsewhere
        for owner, reserve in self.reserves.items():
            if owner != loop:
                total = plus(total, reserve)
        return total

    def renew(self) -> None:
        """Start anew if the window is over; what was held in it stays there."""
        if self.renewed is None:
            return
        window = window_at(self.renewed, time.time())
        if window != self.window:
            self.start(window)

    def start(self, window: str) -> None:
        """Count a new window from nothing."""
        self.window = window
        self.settled = self.held = self.overshoot = self.extra = self.elsewhere = ZERO
        self.reserves = {}
        self.admitted = self.settlements = self.released = 0
        self.wake()

    def wake(self) -> None:
        """Let the longest waiting admission decide anew."""
        while self.waiters and not self.waiters[0].wake():
            self.waiters.popleft()

    def look_again_s(self, waiter: Waiter) -> float:  # noqa: ARG002 -- a shared account needs it
        """Seconds after which somebody who waits should look by himself, as nobody may wake him."""
        return float("inf")

    def first_in_line(self) -> Waiter | None:
        """Who waits longest; one that is past its patience stands in nobody's way."""
        now = time.monotonic()
        while self.waiters and self.waiters[0].give_up < now:
            self.waiters.popleft()
        return self.waiters[0] if self.waiters else None


class LedgerLock:
    """A lock that a finalizer may meet in its own thread.

    The garbage collector may finalize an abandoned stream anywhere, also while this thread is in
    the middle of a change to the ledger. What the finalizer has to say is then said afterwards.
    """

    __slots__ = ("_holders", "_lock", "_postponed")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: set[int] = set()
        self._postponed: deque[tuple[int, Callable[[], None]]] = deque()

    def __enter__(self) -> None:
        self._holders.add(threading.get_ident())
        try:
            self._lock.acquire()
        except BaseException:  # an interrupt while waiting for it
            self._holders.discard(threading.get_ident())
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._holders.discard(threading.get_ident())
        if self._postponed:
            self._run_postponed()

    def is_mine(self) -> bool:
        """Whether this thread is at the lock already, so that it must not take it again."""
        return threading.get_ident() in self._holders

    def postpone(self, action: Callable[[], None]) -> None:
        """Run `action` when this thread has left the lock."""
        self._postponed.append((threading.get_ident(), action))

    def _run_postponed(self) -> None:
        """Run what finalizers of this thread had to say; others look after theirs."""
        for _ in range(len(self._postponed)):
            try:
                thread, action = self._postponed.popleft()
            except IndexError:
                return
            if thread == threading.get_ident():
                action()
            else:
                self._postponed.append((thread, action))


class MemoryStore:
    """The accounts of this process that have an id, and the calls in flight."""

    def __init__(self) -> None:
        self.lock = LedgerLock()
        """Protects every account, loop, latch and queue. No user code runs under it."""
        self.in_flight: set[Ticket] = set()
        self._accounts: dict[tuple[str, str, str, Window | None], Account] = {}
        self._swept = time.monotonic()

    def forget_everything(self) -> None:
        """Start anew, as a forked child must: what the parent holds is not the child's."""
        self.lock = LedgerLock()
        self.in_flight = set()
        self._accounts = {}
        FORECAST.forget_calls_in_flight()

    def holds(self, owner: object, account: Account) -> bool:
        """Whether a thread or task holds a ticket on that account."""
        return any(each.owner == owner and account in each.accounts for each in self.in_flight)

    def account(
        self, tenant: str, budget: str, id: str | None, renewed: Window | None = None
    ) -> Account:
        """A new account, or the one of that id; accounts long out of use are forgotten.

        One that is renewed and has no id is the one account of its budget.
        """
        if id is None and renewed is None:
            return Account()
        now = time.monotonic()
        key = tenant, budget, id or "", renewed
        with self.lock:
            if now - self._swept > SWEEP_S:
                self._forget(now - KEPT_S)
                self._swept = now
            account = self._accounts.get(key)
            if account is None or _is_old(account, now - KEPT_S):
                account = self._accounts[key] = Account(renewed)
            account.last_used = now
        return account

    def _forget(self, before: float) -> None:
        """Drop what was not used since `before`."""
        for key in [k for k, v in self._accounts.items() if _is_old(v, before)]:
            del self._accounts[key]


def _is_old(account: Account, before: float) -> bool:
    """Whether it was not used since `before` and starts anew anyway when it is used again."""
    if account.last_used >= before:
        return False
    return account.renewed is None or account.window != window_at(account.renewed, time.time())


STORE: Final = MemoryStore()
"""The store of every scope of this process."""
