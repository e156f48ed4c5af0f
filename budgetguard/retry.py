"""Trying again: the one place that decides how often and how long, with tenacity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random,
)

from budgetguard.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


_twice: Final = Retrying(
    retry=retry_if_exception_type(StoreUnavailableError),
    stop=stop_after_attempt(2),
    wait=wait_random(0.02, 0.2),  # seconds
    reraise=True,
)


def reconnecting(run: Callable[[], T]) -> T:
    """What `run` returns; tried once more, after 20 to 200 ms, if the store is out of reach.

    Raises:
        StoreUnavailableError: If it still is.
    """
    return _twice(run)


def patiently(attempt: int) -> float:
    """Seconds to wait before the next attempt in the background: 50 ms at first, 2 s at most."""
    return min(2.0, 0.05 * 2.0 ** min(attempt, 10))
