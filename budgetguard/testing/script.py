"""Script: everything a test may hand to the provider, as one callable."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeAlias

from budgetguard.testing.refusal import Refusal
from budgetguard.testing.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from budgetguard.testing.request import Request

Script: TypeAlias = "str | Reply | Iterable[Reply | str] | Callable[[Request], Reply | str]"
"""What the model says: always the same, one reply after the other, or what a function returns.

An iterable gives one reply per choice asked for and may not run out. A function is called from
several threads at once."""


def director(script: Script) -> Callable[[Request], Reply]:
    """The script as a function of the request, safe to call from any thread."""
    if isinstance(script, str | Reply):
        always = _reply(script)
        return lambda _request: always
    if callable(script):
        return lambda request: _reply(script(request))
    return _Lines(script)


def _reply(said: Reply | str) -> Reply:
    return Reply(said) if isinstance(said, str) else said


class _Lines:
    def __init__(self, replies: Iterable[Reply | str]) -> None:
        self._replies = iter(replies)
        self._lock = threading.Lock()  # an iterator may not be advanced by two threads at once
        self._given = 0

    def __call__(self, _request: Request) -> Reply:
        with self._lock:
            for said in self._replies:
                self._given += 1
                return _reply(said)
        raise Refusal(
            f"loopback provider: the script has run out after {self._given} replies",
            status=500,
            retry=False,
        )
