"""Ledger: what the provider saw and billed, counted by itself and apart from any client.

Invariant: an exchange is in the log before its last byte is sent, so a client that has its answer
finds it there.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from budgetguard.testing.fault import OK
from budgetguard.testing.usage import Usage

if TYPE_CHECKING:
    from budgetguard.testing.request import Request


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what became of it."""

    request: Request
    """The request. It has no headers: an API key is never kept."""
    status: int
    """The HTTP status it was answered with; 200 also for a stream that was cut."""
    usage: Usage
    """What was billed, also where the usage was withheld, made up, or the stream cut."""
    disconnected: bool = False
    """Whether the client left before it had the whole answer."""
    chunks_sent: int = 0
    """How many server-sent events were written; 0 for a JSON answer."""


class Ledger:
    """The provider's books. Safe to use from any thread."""

    def __init__(self) -> None:
        # Protects everything below; notified when a request leaves.
        self._changed = threading.Condition()
        self._requests = 0
        self._in_flight = 0
        self._logged: set[int] = set()
        self._log: list[Exchange] = []

    def arrive(self) -> int:
        """Count a request in and give it its number, from 1."""
        with self._changed:
            self._requests += 1
            self._in_flight += 1
            return self._requests

    def leave(self) -> None:
        """Count a request out."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def record(self, exchange: Exchange) -> None:
        """Log an exchange; the first record of a request stands."""
        with self._changed:
            if exchange.request.index not in self._logged:
                self._logged.add(exchange.request.index)
                self._log.append(exchange)

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no request is in flight; `False` when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout)

    @property
    def requests(self) -> int:
        """How many HTTP requests arrived."""
        return self._requests

    @property
    def log(self) -> list[Exchange]:
        """The exchanges so far, in the order they ended."""
        with self._changed:
            return list(self._log)

    @property
    def calls(self) -> int:
        """How many requests were answered with 200."""
        return sum(1 for exchange in self.log if exchange.status == OK)

    @property
    def total(self) -> Usage:
        """Everything billed so far."""
        bills = [exchange.usage for exchange in self.log]
        return Usage(
            input_tokens=sum(bill.input_tokens for bill in bills),
            output_tokens=sum(bill.output_tokens for bill in bills),
            reasoning_tokens=sum(bill.reasoning_tokens for bill in bills),
            cached_tokens=sum(bill.cached_tokens for bill in bills),
            cache_write_tokens=sum(bill.cache_write_tokens for bill in bills),
        )
