"""Hold: requests kept in flight until a test lets them go, so that no test has to sleep."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Hold:
    """Requests waiting inside the provider. Made by `LoopbackProvider.hold()`.

    Leaving its `with` block releases everything.
    """

    def __init__(self, *, after_chunks: int = 0) -> None:
        self._after_chunks = after_chunks
        # One lock protects the two numbers below. Two conditions, because waking every held
        # request at each arrival would make hundreds of them quadratic.
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)
        self._released = threading.Condition(lock)
        self._waiting = 0
        self._free: float = 0

    @property
    def waiting(self) -> int:
        """How many requests are waiting here now."""
        return self._waiting

    def wait_for(self, count: int, *, timeout: float = 5.0) -> None:
        """Wait until so many requests are waiting here. Blocks: use `asyncio.to_thread` in a loop.

        Args:
            count: How many requests.
            timeout: Seconds after which it gives up.

        Raises:
            TimeoutError: Fewer requests arrived in time; the message says how many.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._waiting >= count, timeout):
                raise TimeoutError(f"{self._waiting} of {count} requests arrived in {timeout} s")

    def release(self, count: int | None = None) -> None:
        """Let so many requests go on, waiting ones first; `None`: all, also those to come."""
        with self._released:
            self._free += math.inf if count is None else count
            self._released.notify_all()

    def admit(self, *, sent: int) -> None:
        """Called by the provider when a request has sent `sent` chunks: wait here if it should."""
        if sent != self._after_chunks:
            return
        with self._released:
            self._waiting += 1
            self._arrived.notify_all()
            self._released.wait_for(lambda: self._free > 0)
            self._waiting -= 1
            self._free -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
