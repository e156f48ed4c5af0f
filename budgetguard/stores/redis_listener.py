"""A thread that hears, from every worker, that room came free.

What it misses while its connection is gone, admissions that wait find by looking themselves.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from budgetguard.stores.redis_scripts import address_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgetguard.stores.protocol import Address

_log: Final = logging.getLogger("budgetguard")

ROOMS: Final = "{budgetguard:*}:room"
"""The channels of all tenants, in which the scripts name accounts that may have room."""

_TURN_S: Final = 0.5
"""Seconds between two looks at whether to end."""

_AGAIN_S: Final = 0.2
"""Seconds between two attempts to connect."""


class Listener:
    """Calls `wake` for every account that may have room, until it is closed."""

    def __init__(self, connect: Callable[[], Any], wake: Callable[[Address], None]) -> None:
        self._connect = connect
        """Makes a client of redis-py, for this thread alone."""
        self._wake = wake
        self._failed = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="budgetguard-redis", daemon=True)

    def start(self) -> None:
        """Listen from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2 * _TURN_S)

    def _run(self) -> None:
        while not self._closed.is_set():
            # Whatever it is, commands meet it too, and say so.
            with contextlib.suppress(Exception):
                self._hear()
            self._closed.wait(_AGAIN_S)

    def _hear(self) -> None:
        """Listen until the connection breaks."""
        with contextlib.closing(self._connect()) as client, client.pubsub() as channels:
            channels.psubscribe(ROOMS)
            while not self._closed.is_set():
                message = channels.get_message(ignore_subscribe_messages=True, timeout=_TURN_S)
                if message is not None:
                    for key in message["data"].decode().split("\n"):
                        self._tell(address_of(key))

    def _tell(self, address: Address) -> None:
        try:
            self._wake(address)
        except Exception:  # noqa: BLE001 -- others must be woken all the same
            if not self._failed:
                self._failed = True
                _log.exception("waking an admission failed; this is logged once")
