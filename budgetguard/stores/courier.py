"""Courier: a thread that delivers in order what must not be lost, and does what is due."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from budgetguard.errors import StoreUnavailableError
from budgetguard.retry import patiently

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from budgetguard.stores.protocol import Command, Reply

_log = logging.getLogger("budgetguard")

FLUSH_S: Final = 3.0
"""The end of the process waits this many seconds at most for what was not delivered."""


class Parcel(NamedTuple):
    """Something to be delivered."""

    command: Command
    confirm: Callable[[Reply], None]
    delivered: Future[bool]


class Chore(Protocol):
    """Something that is due now and then."""

    def due_in_s(self) -> float:
        """Seconds until it is due."""
        ...

    def do_due(self) -> None:
        """Do it if it is due; a store that is out of reach is no error."""
        ...


class Sender(Protocol):
    """How the courier reaches the store, and whom it tells how that went."""

    def send(self, command: Command) -> Reply:
        """Run a command.

        Raises:
            StoreUnavailableError: If the store is out of reach.
        """
        ...

    def note_failure(self, why: str) -> None:
        """The store is out of reach."""
        ...

    def note_emptied(self) -> None:
        """Everything was delivered."""
        ...


class Courier:
    """Delivers to one store."""

    def __init__(self, sender: Sender, chores: tuple[Chore, ...], name: str) -> None:
        self._sender = sender
        self._chores = chores
        self._name = name
        self._queue: deque[Parcel] = deque()
        self._changed = threading.Condition()  # protects the queue, the thread and the flag below
        self._thread: threading.Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        """How much waits to be delivered."""
        return len(self._queue)

    def take(self, parcel: Parcel) -> None:
        """Deliver something, after everything that was taken before."""
        with self._changed:
            self._queue.append(parcel)
            self._closed = False
            self._start()
            self._changed.notify_all()

    def is_here(self) -> bool:
        """Whether this is its thread, which may be in the middle of a chore."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        """See to the chores, if nothing was to be delivered yet."""
        if self._thread is None:
            with self._changed:
                self._start()

    def close(self) -> bool:
        """Deliver what is left, for a moment at most; returns whether the thread has ended."""
        deadline = time.monotonic() + FLUSH_S
        with self._changed:
            while self._queue and time.monotonic() < deadline:
                self._changed.wait(0.05)
            if self._queue:
                _log.warning(
                    "%d settlement(s) were not delivered to %s", len(self._queue), self._name
                )
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(1.0)
        return not thread.is_alive()

    def _start(self) -> None:
        if self._thread is None:
            name = "budgetguard-courier"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        failures = 0
        while not self._has_ended():
            parcel = self._next()
            self._do_chores()
            if parcel is None:
                continue
            if self._deliver(parcel):
                failures = 0
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, patiently(failures))
                failures += 1

    def _has_ended(self) -> bool:
        with self._changed:
            if self._closed:
                self._thread = None
            return self._closed

    def _do_chores(self) -> None:
        for chore in self._chores:
            try:
                chore.do_due()
            except Exception:  # noqa: BLE001 -- it must not stop deliveries
                _log.exception("a chore at %s failed", self._name)

    def _next(self) -> Parcel | None:
        with self._changed:
            if not self._queue and not self._closed:
                self._changed.wait(min(each.due_in_s() for each in self._chores))
            return self._queue[0] if self._queue else None

    def _deliver(self, parcel: Parcel) -> bool:
        try:
            parcel.confirm(self._sender.send(parcel.command))
        except StoreUnavailableError as error:
            self._sender.note_failure(error.why)
            with self._changed:
                waiting = list(self._queue)
            for each in waiting:  # nobody waits for those behind it either
                tell(each.delivered, done=False)
            return False
        except Exception:  # noqa: BLE001 -- what cannot be understood must not stop the rest
            _log.exception("a settlement could not be delivered to %s", self._name)
        with self._changed:
            self._queue.popleft()
            emptied = not self._queue
            self._changed.notify_all()
        if emptied:
            self._sender.note_emptied()
        tell(parcel.delivered, done=True)
        return True


def tell(delivered: Future[bool], *, done: bool) -> None:
    """Let whoever waits for a delivery go on."""
    if not delivered.done():
        delivered.set_result(done)
