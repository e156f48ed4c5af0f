"""Session: transactions of all threads of a process over one connection, and what a fork does.

One connection is enough: SQLite lets one transaction write at a time, and threads that wait for a
lock here go on at once, while connections that wait for each other must look again and again.

Invariant: nothing is open in a fork. A child inherits what SQLite noted about the locks of its
parent and takes them for its own: one of them may then remove a log that the other writes to.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from budgetguard.errors import StoreUnavailableError
from budgetguard.stores.sqlite.file import WrongFileError, connect, identity

if TYPE_CHECKING:
    from collections.abc import Generator

_WAIT_S: Final = (0.001, 0.005)
"""First and longest wait, in seconds, between two tries to begin. SQLite's own grow to 0.1 s."""

_PARENTS: Final[list[sqlite3.Connection]] = []
"""Connections that a parent process opened: SQLite forbids its child even to close them."""


class Session:
    """A file that is opened on first use, and again whenever somebody replaced it."""

    def __init__(self, path: str, url: str, timeout_s: float) -> None:
        self._path = path
        self._url = url
        self._timeout_s = timeout_s
        self._start()
        _SESSIONS.add(self)

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """A transaction that no other thread or process is in; all of it happens, or nothing.

        Raises:
            StoreUnavailableError: Whatever SQLite or the file system says.
        """
        deadline = time.monotonic() + self._timeout_s
        if self._process != os.getpid():  # a fork that Python was not told of
            self.abandon()
        if self._owner == threading.get_ident():  # a finalizer, in the middle of a command
            raise StoreUnavailableError(self._url, "this thread is in another command")
        if not self.acquire():
            raise StoreUnavailableError(self._url, f"other threads took {self._timeout_s:g} s")
        try:
            db = self._begin(deadline)
            yield db
            db.execute("COMMIT")
        except (OSError, sqlite3.Error, WrongFileError) as error:
            self.disconnect()
            raise StoreUnavailableError(self._url, _reason(error)) from error
        except BaseException:
            self.disconnect()  # which rolls back
            raise
        finally:
            self.release()

    def close(self) -> None:
        """Close the file, when the transaction that may be running is over."""
        if self._process == os.getpid() and self.acquire():
            try:
                self.disconnect()
            finally:
                self.release()

    def acquire(self) -> bool:
        """Keep other threads out; whether it came to that in time."""
        if self._owner == threading.get_ident() or not self._lock.acquire(timeout=self._timeout_s):
            return False
        self._owner = threading.get_ident()
        return True

    def release(self) -> None:
        """Let other threads in."""
        self._owner = None
        self._lock.release()

    def disconnect(self) -> None:
        """Close the file; a transaction in it is rolled back."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def abandon(self) -> None:
        """Start anew, as a forked child must: what the parent opened is not the child's."""
        if self._db is not None:
            _PARENTS.append(self._db)
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        """Protects everything below: one thread uses the connection at a time."""
        self._owner: int | None = None
        """The thread that has the lock."""
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        """Which file the connection is to."""
        self._process = os.getpid()

    def _begin(self, deadline: float) -> sqlite3.Connection:
        """A connection, in a transaction that may write."""
        wait_s, most_s = _WAIT_S
        while True:
            try:
                db = self._connected()
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
            else:
                return db
            time.sleep(wait_s * random.uniform(0.5, 1))  # noqa: S311 -- no secret
            wait_s = min(wait_s * 1.5, most_s)

    def _connected(self) -> sqlite3.Connection:
        """The connection, made anew where somebody removed or replaced the file."""
        if self._db is None or self._file != identity(self._path):
            self.disconnect()
            self._db = connect(self._path)
            self._file = identity(self._path)
        return self._db


def _is_busy(error: sqlite3.Error) -> bool:
    """Whether others are in the way."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it says in which way
    return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


_SESSIONS: Final[weakref.WeakSet[Session]] = weakref.WeakSet()

_in_fork: Final[list[Session]] = []
"""Those that wait for a fork to be over."""


def _before_fork() -> None:
    for session in list(_SESSIONS):
        if session.acquire():
            _in_fork.append(session)
            session.disconnect()


def _after_in_parent() -> None:
    while _in_fork:
        _in_fork.pop().release()


def _after_in_child() -> None:
    _in_fork.clear()
    for session in list(_SESSIONS):
        session.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
