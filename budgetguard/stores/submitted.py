"""Submitted: holds that threads ask for on behalf of event loops, whose tasks may be cancelled.

Invariant: the release of a hold does not overtake the hold itself, which then nobody would end.
"""

from __future__ import annotations

from concurrent.futures import wait
from typing import TYPE_CHECKING

from budgetguard.stores.protocol import Hold, Release

if TYPE_CHECKING:
    from concurrent.futures import Future

    from budgetguard.stores.protocol import Command, Reply


class Submitted:
    """The holds that are being asked for."""

    def __init__(self) -> None:
        self._holds: dict[str, Future[Reply]] = {}

    def note(self, command: Command, future: Future[Reply]) -> None:
        """A command was given to a thread."""
        if isinstance(command, Hold):
            id = command.id
            self._holds[id] = future
            future.add_done_callback(lambda _: self._holds.pop(id, None))

    def wait_before(self, command: Command) -> None:
        """Wait while what a command releases is still being asked for."""
        if isinstance(command, Release):
            future = self._holds.get(command.id)
            if future is not None:
                wait((future,))
