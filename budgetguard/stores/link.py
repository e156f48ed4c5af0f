"""Link: this process's connection to one store.

It knows the accounts that are looked at here, and whether the store is in reach. What must not be
lost goes by its courier, which also renews leases and keeps what was learned.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

from budgetguard.errors import StoreUnavailableError
from budgetguard.retry import reconnecting
from budgetguard.stores.courier import Courier, Parcel, tell
from budgetguard.stores.learning import Learning
from budgetguard.stores.leases import Leases
from budgetguard.stores.memory import STORE
from budgetguard.stores.opening import open_store
from budgetguard.stores.shared import SharedAccount
from budgetguard.stores.submitted import Submitted
from budgetguard.stores.windows import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from multiprocessing.util import Finalize

    from budgetguard.stores.protocol import Address, Command, Reply, Window

_log = logging.getLogger("budgetguard")

QUIET_S: Final = 1.0
"""After a failure the store is left alone for this many seconds: calls fail at once meanwhile."""

_WORKERS: Final = 16
"""Threads that wait for the store on behalf of event loops."""


class Ask(NamedTuple):
    """A command to be run; who asks is sent the reply, or thrown `StoreUnavailableError`."""

    link: Link
    command: Command


_Key = tuple["Address", "Window | None"]


class Link:
    """The one connection of this process to the store at a URL."""

    def __init__(self, url: str) -> None:
        self.store = open_store(url)
        self.leases = Leases(self.store)
        self.learning = Learning(self.store)
        self.threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="budgetguard-store")
        """For callers on an event loop, which must not block."""
        self.outages = 0
        """How often the store came back after it was out of reach."""
        self._submitted = Submitted()
        self._accounts: WeakValueDictionary[_Key, SharedAccount] = WeakValueDictionary()
        chores = self.leases, self.learning
        self._courier = Courier(self, chores, self.store.url)
        self._listens = False
        self._quiet_until = 0.0
        self._failed = False
        self._why = ""
        self._busy = threading.local()  # a finalizer may run in the middle of a command
        atexit.register(self.close)
        self._finalizer = _at_end_of_child(self.close)

    def account(self, address: Address, renewed: Window | None) -> SharedAccount:
        """The account at that address (without a window), as all its handles here see it."""
        with STORE.lock:
            self.learning.budgets.add(address.budget)
            account = self._accounts.get((address, renewed))
            if account is None:
                account = SharedAccount(self, address, renewed)
                self._accounts[address, renewed] = account
            return account

    def run(self, command: Command) -> Reply:
        """Do a command now; after a failure the store is left alone for a moment.

        Raises:
            StoreUnavailableError: If the store is out of reach.
        """
        if time.monotonic() < self._quiet_until:
            error = StoreUnavailableError(self.store.url, f"{self._why}, a moment ago")
            error.asked = False
            raise error
        self._busy.here = True
        self.learning.begin()
        try:
            reply = reconnecting(partial(self.store.run, command))
        except StoreUnavailableError as error:
            self._quiet_until = time.monotonic() + QUIET_S
            self.note_failure(error.why)
            raise
        finally:
            self._busy.here = False
        if not self.undelivered:
            self.note_emptied()
        return reply

    def submit(self, command: Command) -> Future[Reply]:
        """Do what `run` does, in another thread."""
        try:
            future = self.threads.submit(self.run, command)
        except RuntimeError as error:
            raise StoreUnavailableError(self.store.url, "its connection was closed") from error
        self._submitted.note(command, future)
        return future

    def deliver(
        self, command: Command, confirm: Callable[[Reply], None], *, now: bool
    ) -> Future[bool]:
        """Do a command for certain: now, or as soon as the store is in reach, in order.

        Args:
            command: What to do; doing it twice does no harm.
            confirm: What to do with the answer.
            now: Whether this thread may wait for the store.

        Returns:
            True when the store has it, False as soon as it is known to be out of reach.
        """
        delivered: Future[bool] = Future()
        if now and not self.undelivered and not self._failed and not self._is_busy():
            try:
                confirm(self.run(command))
            except StoreUnavailableError:
                tell(delivered, done=False)
            except BaseException:  # an interrupt: it must not be lost for that
                self._courier.take(Parcel(command, confirm, delivered))
                raise
            else:
                tell(delivered, done=True)
                return delivered
        if self._failed:
            tell(delivered, done=False)
        self._courier.take(Parcel(command, confirm, delivered))
        return delivered

    @property
    def undelivered(self) -> int:
        """How many settlements and the like the store is still to be told of."""
        return len(self._courier)

    def _is_busy(self) -> bool:
        return getattr(self._busy, "here", False) or self._courier.is_here()

    def watch(self) -> None:
        """Have waiting admissions woken by the store, where it can."""
        if not self._listens:
            self._listens = True
            self.store.listen(self._wake)

    def keep_leases(self) -> None:
        """See to it that the leases of what is held are renewed."""
        self._courier.start()

    def close(self) -> None:
        """Deliver what is left, for a moment at most, and end the connection."""
        ended = self._courier.close()
        self.learning.keep()
        self.threads.shutdown(wait=False)
        atexit.unregister(self.close)
        if self._finalizer is not None:
            self._finalizer.cancel()
        if ended:
            self.store.close()

    def send(self, command: Command) -> Reply:
        """Run a command for the courier.

        Raises:
            StoreUnavailableError: If the store is out of reach.
        """
        self._busy.here = True  # what a finalizer delivers meanwhile must queue up too
        try:
            self._submitted.wait_before(command)
            return self.store.run(command)
        finally:
            self._busy.here = False

    def note_failure(self, why: str) -> None:
        """The store is out of reach."""
        self._why = why
        if not self._failed:
            self._failed = True
            _log.warning("the store %s is out of reach: %s", self.store.url, why)

    def note_emptied(self) -> None:
        """The store answers, and everything was delivered."""
        if not self._failed:
            return
        self._failed = False
        self._quiet_until = 0.0
        _log.warning("the store %s is in reach again", self.store.url)
        with STORE.lock:
            self.outages += 1
            for account in list(self._accounts.values()):
                account.online()
                account.wake()

    def _wake(self, address: Address) -> None:
        """Room may have come free in an account."""
        with STORE.lock:
            key = address._replace(window=""), kind_of(address.window)
            account = self._accounts.get(key)
            if account is not None:
                account.read_at = float("-inf")
                account.wake()


def _at_end_of_child(action: Callable[[], None]) -> Finalize | None:
    """Do something at the end of a child of `multiprocessing`, which runs no `atexit`."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return None
    from multiprocessing.util import Finalize  # noqa: PLC0415 -- only who uses it

    return Finalize(None, action, exitpriority=0)


_links: dict[str, Link] = {}
_worker: list[str] = [secrets.token_hex(6)]
_opening = threading.Lock()


def loop_name(loop: Hashable) -> str:
    """The name of an agent loop of this process in every store."""
    return f"{_worker[0]}:{loop}"


def link_to(url: str) -> Link:
    """The connection of this process to the store at that URL, made on first use."""
    link = _links.get(url)
    if link is None:
        with _opening:
            link = _links.get(url)
            if link is None:
                link = _links[url] = Link(url)
    return link


def close_links() -> None:
    """Deliver what is left to every store and end the connections; they are made anew when used."""
    with _opening:
        links = list(_links.values())
        _links.clear()
    for link in links:
        link.close()


def _after_fork() -> None:
    """Start anew in a forked child: what the parent holds is not the child's to renew or settle."""
    global _opening  # noqa: PLW0603 -- another thread of the parent may have held it
    _opening = threading.Lock()
    _worker[0] = secrets.token_hex(6)
    for link in _links.values():
        atexit.unregister(link.close)
    _links.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
