"""Link: this process's connection to one store.

It knows the accounts that are looked at here, renews the leases of what is held, and delivers what
must not be lost: a settlement that cannot be sent now is kept, and sent later, in order.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

from budgetguard.errors import StoreUnavailableError
from budgetguard.retry import patiently, reconnecting
from budgetguard.stores.learning import Learning
from budgetguard.stores.leases import Leases
from budgetguard.stores.memory import STORE
from budgetguard.stores.opening import open_store
from budgetguard.stores.shared import SharedAccount
from budgetguard.stores.submitted import Submitted
from budgetguard.stores.windows import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from budgetguard.stores.protocol import Address, Command, Reply, Window

_log = logging.getLogger("budgetguard")

QUIET_S: Final = 1.0
"""After a failure the store is left alone for this many seconds: calls fail at once meanwhile."""

FLUSH_S: Final = 3.0
"""The end of the process waits this many seconds at most for what was not delivered."""

_WORKERS: Final = 16
"""Threads that wait for the store on behalf of event loops."""


class Ask(NamedTuple):
    """A command to be run; who asks is sent the reply, or thrown `StoreUnavailableError`."""

    link: Link
    command: Command


_Key = tuple["Address", "Window | None"]


class _Item(NamedTuple):
    """Something to be delivered."""

    command: Command
    confirm: Callable[[Reply], None]
    delivered: Future[bool]


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
        self._queue: deque[_Item] = deque()
        self._changed = threading.Condition()  # protects the queue and the thread below
        self._courier: threading.Thread | None = None
        self._listens = False
        self._quiet_until = 0.0
        self._failed = False
        self._busy = threading.local()  # a finalizer may run in the middle of a command
        self._closed = False
        atexit.register(self.close)

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
            raise StoreUnavailableError(self.store.url, "it did not answer a moment ago")
        self._busy.here = True
        self.learning.begin()
        try:
            reply = reconnecting(partial(self.store.run, command))
        except StoreUnavailableError:
            self._quiet_until = time.monotonic() + QUIET_S
            self._failed = True
            raise
        finally:
            self._busy.here = False
        if self._failed and not self._queue:
            self._is_back()
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
        item = _Item(command, confirm, Future())
        if now and not self._queue and not self._failed and not self._is_busy():
            try:
                confirm(self.run(command))
            except StoreUnavailableError:
                item.delivered.set_result(False)
            else:
                item.delivered.set_result(True)
                return item.delivered
        if self._failed:
            _resolve(item.delivered, done=False)
        with self._changed:
            self._queue.append(item)
            self._start_courier()
            self._changed.notify_all()
        return item.delivered

    def _is_busy(self) -> bool:
        return getattr(self._busy, "here", False)

    def watch(self) -> None:
        """Have waiting admissions woken by the store, where it can."""
        if not self._listens:
            self._listens = True
            self.store.listen(self._wake)

    def keep_leases(self) -> None:
        """See to it that the leases of what is held are renewed."""
        if self._courier is None:
            with self._changed:
                self._start_courier()

    def close(self) -> None:
        """Deliver what is left, for a moment at most, and end the connection."""
        self._flush()
        self.learning.keep()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.threads.shutdown(wait=False)
        atexit.unregister(self.close)
        if self._courier is None or not self._courier.is_alive():
            self.store.close()

    def _flush(self) -> None:
        deadline = time.monotonic() + FLUSH_S
        with self._changed:
            while self._queue and time.monotonic() < deadline:
                self._changed.wait(0.05)
            if self._queue:
                _log.warning(
                    "%d settlements were not delivered to %s", len(self._queue), self.store.url
                )

    def _start_courier(self) -> None:
        if self._courier is None:
            self._courier = threading.Thread(
                target=self._deliver_forever, name="budgetguard-courier", daemon=True
            )
            self._courier.start()

    def _deliver_forever(self) -> None:
        attempt = 0
        self._busy.here = True  # what a finalizer delivers here must queue up too
        while not self._closed:
            with self._changed:
                if not self._queue:
                    self._changed.wait(min(self.leases.due_in_s(), self.learning.due_in_s()))
                item = self._queue[0] if self._queue else None
            self.leases.renew_due()
            self.learning.keep_due()
            if item is None:
                continue
            if self._deliver(item):
                attempt = 0
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, patiently(attempt))
                attempt += 1
        self.store.close()

    def _deliver(self, item: _Item) -> bool:
        try:
            self._submitted.wait_before(item.command)
            reply = self.store.run(item.command)
            item.confirm(reply)
        except StoreUnavailableError:
            self._failed = True
            with self._changed:
                waiting = list(self._queue)
            for each in waiting:  # nobody waits for those behind it either
                _resolve(each.delivered, done=False)
            return False
        except Exception:  # noqa: BLE001 -- what cannot be understood must not stop the rest
            _log.exception("a settlement could not be delivered to %s", self.store.url)
        with self._changed:
            self._queue.popleft()
            left = bool(self._queue)
            self._changed.notify_all()
        if self._failed and not left:
            self._is_back()
        _resolve(item.delivered, done=True)
        return True

    def _is_back(self) -> None:
        """The store answers, and everything was delivered."""
        self._failed = False
        self._quiet_until = 0.0
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


def _resolve(delivered: Future[bool], *, done: bool) -> None:
    if not delivered.done():
        delivered.set_result(done)


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
