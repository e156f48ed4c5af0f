"""Learning: what was learned of answers, kept in a store, so that the workers of a fleet share it.

Several workers may keep at the same time, and then one of them is not heard this time: what is
learned is an estimate, and the next exchange brings the newest answers again.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from budgetguard.errors import StoreUnavailableError
from budgetguard.forecast import FORECAST
from budgetguard.stores.memory import STORE

if TYPE_CHECKING:
    from budgetguard.stores.protocol import Store

_log = logging.getLogger("budgetguard")

EVERY_S: Final = 10.0
"""What was learned is kept so many seconds after it was learned, at the latest."""

_NAME: Final = "forecast"


class Learning:
    """The exchange of what is learned with one store."""

    def __init__(self, store: Store) -> None:
        self.budgets: set[str] = set()
        """The budgets whose accounts the store keeps; of others it is told nothing."""
        self._store = store
        self._news = False
        self._next = float("inf")
        self._began = False

    def begin(self) -> None:
        """Learn what others have learned, the first time."""
        if not self._began:
            self._began = True
            self._exchange(keep=False)

    def note(self) -> None:
        """Something was learned."""
        if not self._news:
            self._news = True
            self._next = time.monotonic() + EVERY_S

    def due_in_s(self) -> float:
        """Seconds until it should be kept."""
        return max(0.0, self._next - time.monotonic())

    def do_due(self) -> None:
        """Keep it, if it is time."""
        if time.monotonic() >= self._next:
            self.keep()

    def keep(self) -> None:
        """Keep what was learned since the last time, if anything was."""
        if self._news:
            self._news, self._next = False, float("inf")
            self._exchange(keep=True)

    def _exchange(self, *, keep: bool) -> None:
        try:
            known = self._store.load(_NAME)
            records = None if known is None else FORECAST.read(known)
            with STORE.lock:
                others = FORECAST.merge_records(records or {})
                # What others keep there of other budgets stays.
                learned = FORECAST.dump(self.budgets | others) if keep else b""
            if keep:
                self._store.save({_NAME: learned})
        except StoreUnavailableError as error:
            _log.info("what was learned could not be exchanged: %s", error.why)
