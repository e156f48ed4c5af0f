"""Frozen records of every decision, for whoever subscribes; a JSON Lines log of them.

A subscriber sees what happened, after it happened, outside every lock, and cannot disturb it: one
that raises is logged once and costs the agent nothing. No record carries a prompt, an answer, a
tool argument or a key.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

_log = logging.getLogger("budgetguard")

Decision = Literal["downgrade", "effort", "clamp", "finish", "stop", "refuse", "extend"]
"""What was decided about a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every record says."""

    path: str
    """The scope's place, outermost budget first: `"order/triage"`."""
    scope_id: str
    """Identifies the scope; runs that share an account share it."""
    at: float = field(default_factory=time.time)
    """Unix time in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Event):
    """A scope was opened."""

    budget: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted(Event):
    """A call was admitted: this much is held for it."""

    call_id: str
    model: str
    turn: int
    effort: str | None
    max_output_tokens: int | None
    """The output cap to be sent; `None`: nothing needs one."""
    held_tokens: int
    held_usd: Decimal
    final: bool
    """Whether it is the last call of an agent loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided(Event):
    """Something about a call was changed or refused."""

    decision: Decision
    reason: str
    """Name of a meter, `difficulty`, `policy`, `manual` or `store`."""
    asked: str | None
    """What the caller asked for."""
    used: str | None
    """What it got; `None` where the call was not made."""
    observed: bool = False
    """Whether it was only noted, as by `observe(...)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Event):
    """A call was charged."""

    call_id: str
    model: str
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    usd: Decimal
    price_source: str | None
    """Where the price comes from; `None`: the model is unpriced and charged no money."""
    price_checked: str | None
    """ISO date on which the source checked the price, if it says."""
    estimated: bool
    truncated: bool
    overshoot_tokens: int
    """Tokens billed beyond what was held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released(Event):
    """A call was given back: nothing was sent."""

    call_id: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Late(Event):
    """A store got a settlement after the lease of its hold had run out: charged all the same."""

    hold: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmetered(Event):
    """A model ran in reach of a budget on a path that cannot be guarded."""

    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed(Event):
    """A scope was closed."""

    outcome: str
    turns: int
    tokens: int
    usd: Decimal


Subscriber = Callable[[Event], object]

_subscribers: tuple[Subscriber, ...] = ()
_broken: set[int] = set()
_lock = threading.Lock()  # protects the two above against lost updates; readers need no lock


def subscribe(subscriber: Subscriber) -> Callable[[], None]:
    """Call `subscriber` with every event of this process, in the thread where it happened.

    Returns:
        A function that ends the subscription.
    """
    global _subscribers  # noqa: PLW0603 -- replaced as a whole, so that readers need no lock
    with _lock:
        _subscribers = (*_subscribers, subscriber)

    def unsubscribe() -> None:
        global _subscribers  # noqa: PLW0603
        with _lock:
            _subscribers = tuple(each for each in _subscribers if each is not subscriber)

    return unsubscribe


def listening() -> bool:
    """Whether anybody subscribes; without, no record needs to be made."""
    return bool(_subscribers)


def emit(event: Event) -> None:
    """Hand a record to every subscriber."""
    for subscriber in _subscribers:
        try:
            subscriber(event)
        except Exception:  # noqa: BLE001 -- observation never hurts
            if id(subscriber) not in _broken:
                _broken.add(id(subscriber))
                _log.exception("subscriber %r failed; its failures are logged once", subscriber)


def as_dict(event: Event) -> dict[str, Any]:
    """The record as plain JSON values, with its kind under `event`; money as a string."""
    record = {"event": type(event).__name__.lower(), **asdict(event)}
    return {k: str(v) if isinstance(v, Decimal) else v for k, v in record.items()}


def log_to(path: str | os.PathLike[str]) -> Callable[[], None]:
    """Append every event to a JSON Lines file, readable by its owner only (mode 0600).

    Returns:
        A function that ends the log and closes the file.

    Raises:
        OSError: If the file cannot be opened.
    """
    descriptor = os.open(Path(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(event: Event) -> None:
        # One write to a file opened for appending: lines of two threads stay apart without a
        # lock, which a finalizer could meet in its own thread.
        line = json.dumps(as_dict(event), ensure_ascii=False) + "\n"
        os.write(descriptor, line.encode())

    unsubscribe = subscribe(write)

    def close() -> None:
        unsubscribe()
        os.close(descriptor)

    return close
