"""SQLiteStore: the accounts of a fleet on one machine, in one file.

Invariant: every command is one transaction that no other thread or process sees half of.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from budgetguard.stores.sqlite.commands import answer
from budgetguard.stores.sqlite.ledger import Ledger
from budgetguard.stores.sqlite.location import locate
from budgetguard.stores.sqlite.session import Session

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Callable, Mapping

    from budgetguard.stores.protocol import Address, Balance, Command, Reply

SWEEP_S: Final = 3600.0
"""How often, in seconds, accounts long out of use are looked for."""


class SQLiteStore:
    """Keeps accounts in a SQLite file, for every thread and process of one machine.

    The file is made for its owner only, on first use, in a directory that is there. It must lie on
    a local disk: SQLite cannot share it over a network file system. A process that crashes loses
    nothing that was answered; a power cut may lose the last moments.

    Args:
        path_or_url: A path, or `sqlite:///relative.db`, `sqlite:////absolute.db`; as a URL with
            the parameters `lease` (seconds a hold lives without renewal, default 30) and `timeout`
            (seconds to wait for other processes, default 5).
        clock: Tells Unix time in seconds.

    Raises:
        ValueError: If it names no file, or has a parameter that is unknown or out of range.
    """

    def __init__(
        self, path_or_url: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self.url, path, self.lease_s, timeout_s = locate(path_or_url)
        self.poll_s = (0.005, 0.05)
        self._clock = clock
        self._session = Session(path, self.url, timeout_s)
        self._swept = float("-inf")

    def run(self, command: Command) -> Reply:
        """Do one command in one atomic step.

        Raises:
            StoreUnavailableError: If the file cannot be used, or not within the timeout.
        """
        with self._session.transaction() as db:
            now = self._clock()
            ledger = self._ledger(db, now)
            if now - self._swept >= SWEEP_S:
                ledger.sweep()
                self._swept = now
            return answer(ledger, command, now)

    def listen(self, wake: Callable[[Address], None]) -> None:
        """Do nothing: SQLite cannot tell other processes, so admissions that wait look."""

    def accounts(self, tenant: str | None = None) -> list[Balance]:
        """Every account, or those of one tenant, current windows and older ones.

        Raises:
            StoreUnavailableError: If the file cannot be used, or not within the timeout.
        """
        with self._session.transaction() as db:
            return self._ledger(db, self._clock()).everything(tenant)

    def load(self, name: str) -> bytes | None:
        """What was last saved under that name.

        Raises:
            StoreUnavailableError: If the file cannot be used, or not within the timeout.
        """
        with self._session.transaction() as db:
            row = db.execute("SELECT value FROM saved WHERE name = ?", (name,)).fetchone()
            return row[0] if row else None

    def save(self, values: Mapping[str, bytes]) -> None:
        """Keep values by name, until they are replaced.

        Raises:
            StoreUnavailableError: If the file cannot be used, or not within the timeout.
        """
        with self._session.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO saved VALUES (?, ?)", values.items())

    def close(self) -> None:
        """Close the file; a later command opens it anew."""
        self._session.close()

    def _ledger(self, db: sqlite3.Connection, now: float) -> Ledger:
        return Ledger(db, int(now * 1000), int(self.lease_s * 1000))
