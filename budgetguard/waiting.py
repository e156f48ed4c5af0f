"""Waiting for calls in flight to settle: fair, bounded, cancellable, in threads and in tasks.

One generator says how long to wait; two small drivers wait, a thread and an asyncio task. The
decision itself never sleeps. On every wake the admission is decided anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from budgetguard.current import runs_an_event_loop
from budgetguard.errors import StoreUnavailableError
from budgetguard.stores.memory import STORE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from budgetguard.admission import Short
    from budgetguard.stores.link import Ask
    from budgetguard.stores.memory import Account
    from budgetguard.stores.protocol import Reply
    from budgetguard.ticket import Ticket

    Steps = Generator[float | Ask, Any, Ticket]
    """Says how many seconds to wait, or what to ask of a store, until it returns a Ticket."""


class Attempt(Protocol):
    """Decides an admission now; queues the waiter, under the ledger's lock, if it must wait."""

    def __call__(self, waiter: Waiter) -> Generator[float | Ask, Any, Ticket | Short]:
        """A Ticket, or the scope that lacks room for the moment; yields as `Steps` do."""
        ...


class Busy(Protocol):
    """Makes the error for a call that cannot wait for the room it lacks."""

    def __call__(self, short: Short, reason: str) -> Exception:
        """The error."""
        ...


class Waiter:
    """A place in the queue of the outermost scope that lacks room."""

    def __init__(self, owner: object) -> None:
        self.owner = owner
        """The thread id or asyncio task that waits."""
        self.ahead = False
        """Whether it stands before those who were promised nothing."""
        self.cannot_wait = ""
        """Why it must not wait, in words; empty if it may."""
        self.give_up = float("inf")
        """Monotonic time at which its patience ends."""
        self._queue: Account | None = None

    def wake(self) -> bool:
        """Let it decide anew; False if there is nobody left to wake."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget earlier wakes."""
        raise NotImplementedError

    def join(self, account: Account, *, ahead: bool = False) -> None:
        """Queue up there, behind whoever waits already; call under the store's lock.

        Args:
            account: Where there is no room for the moment.
            ahead: Whether it was promised a share of that, and stands before those who were not.
        """
        self.ahead = ahead
        self.clear()
        if self._queue is account:
            return
        self.leave()
        if account.waiters is None:
            account.waiters = deque()
        before = sum(each.ahead for each in account.waiters) if ahead else len(account.waiters)
        account.waiters.insert(before, self)
        self._queue = account

    def leave(self) -> None:
        """Leave the queue and let the next in line look; call under the store's lock."""
        account, self._queue = self._queue, None
        if account is not None and account.waiters is not None:
            with contextlib.suppress(ValueError):
                account.waiters.remove(self)
            account.wake()


class ThreadWaiter(Waiter):
    """A thread that waits."""

    def __init__(self, cannot_wait: str = "") -> None:
        super().__init__(threading.get_ident())
        self._event = threading.Event()
        self.cannot_wait = cannot_wait
        if not cannot_wait and runs_an_event_loop():
            self.cannot_wait = "waiting would block the event loop of this thread: use ainvoke"

    def wake(self) -> bool:
        """Wake the thread."""
        self._event.set()
        return True

    def clear(self) -> None:
        """Forget earlier wakes."""
        self._event.clear()

    def run(self, steps: Steps) -> Ticket:
        """Drive an admission in this thread."""
        with contextlib.closing(steps):
            try:
                step = next(steps)
                while True:
                    try:
                        reply = self._after(step)
                    except StoreUnavailableError as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(reply)
            except StopIteration as done:
                return done.value

    def _after(self, step: float | Ask) -> Reply | None:
        if isinstance(step, tuple):
            return step.link.run(step.command)
        self._event.wait(step)
        return None


class TaskWaiter(Waiter):
    """An asyncio task that waits; it can be woken from any thread."""

    def __init__(self) -> None:
        super().__init__(asyncio.current_task())
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> bool:
        """Wake the task; False if its event loop is closed."""
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return False
        return True

    def clear(self) -> None:
        """Forget earlier wakes."""
        self._event.clear()

    async def run(self, steps: Steps) -> Ticket:
        """Drive an admission in this task."""
        with contextlib.closing(steps):
            try:
                step = next(steps)
                while True:
                    try:
                        reply = await self._after(step)
                    except StoreUnavailableError as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(reply)
            except StopIteration as done:
                return done.value

    async def _after(self, step: float | Ask) -> Reply | None:
        if isinstance(step, tuple):
            link, command = step
            return await asyncio.wrap_future(link.submit(command), loop=self._loop)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(step):
                await self._event.wait()
        return None


def admission(
    attempt: Attempt, waiter: Waiter, *, patience_s: float, until: Callable[[], float], busy: Busy
) -> Steps:
    """Yield what to ask of a store, or how many seconds to wait at most; return the Ticket.

    Args:
        attempt: Decides anew.
        waiter: Who waits.
        patience_s: Seconds this may take in all.
        until: Tells the monotonic time of the nearest deadline of the lineage.
        busy: Makes the error for a call that cannot wait.

    Raises:
        BudgetBusy: When patience ran out, or the waiter itself holds what it waits for.
        BudgetExceeded: When an attempt is refused.
    """
    waiter.give_up = give_up = time.monotonic() + patience_s
    try:
        while True:
            verdict = yield from attempt(waiter)
            if not isinstance(verdict, tuple):
                return verdict
            if waiter.cannot_wait:
                raise busy(verdict, waiter.cannot_wait)
            if held_by(waiter.owner, verdict):
                raise busy(verdict, "this task itself holds it: end its stream first")
            left = min(give_up, until()) - time.monotonic()
            if give_up <= time.monotonic():
                raise busy(verdict, f"patience of {patience_s:g} s ran out")
            yield min(max(left, 0.0), verdict.scope.account.look_again_s(waiter))
    finally:
        _leave(waiter)


def _leave(waiter: Waiter) -> None:
    if STORE.lock.is_mine():
        STORE.lock.postpone(partial(_leave, waiter))
        return
    with STORE.lock:
        waiter.leave()


def held_by(owner: object, short: Short) -> bool:
    """Whether room would be lacking even if everybody else gave back what they hold."""
    scope, meter, needed = short
    with STORE.lock:
        own = sum(
            ticket.need[meter]
            for ticket in STORE.in_flight
            if ticket.owner == owner and scope.account in ticket.accounts
        )
        limit = scope.limit_on(meter)
        if not own or limit is None:
            return False
        return needed > limit - scope.account.settled[meter] - own
