"""Windows: UTC calendar units by which accounts are renewed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from budgetguard.stores.protocol import Window

_FORMATS: Final[dict[Window, str]] = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}
_LENGTHS: Final[dict[int, Window]] = {13: "hour", 10: "day", 7: "month"}


def window_at(kind: Window | None, unix_s: float) -> str:
    """The name of the window that a Unix time lies in; empty without windows."""
    if kind is None:
        return ""
    return datetime.fromtimestamp(unix_s, UTC).strftime(_FORMATS[kind])


def kind_of(name: str) -> Window | None:
    """How long the window of that name is; `None` for the empty name."""
    return _LENGTHS.get(len(name))


def window_like(name: str, unix_s: float) -> str:
    """The window of the same kind that a Unix time lies in."""
    return window_at(kind_of(name), unix_s)


def start_of(name: str) -> float:
    """The Unix time at which a window begins; 0 for the empty name."""
    kind = kind_of(name)
    return _start(name, kind).timestamp() if kind else 0.0


def end_of(name: str) -> float:
    """The Unix time at which a window ends; 0 for the empty name."""
    kind = kind_of(name)
    if kind is None:
        return 0.0
    start = _start(name, kind)
    if kind == "month":
        end = (start.replace(day=1) + timedelta(days=32)).replace(day=1)
    else:
        end = start + (timedelta(hours=1) if kind == "hour" else timedelta(days=1))
    return end.timestamp()


def _start(name: str, kind: Window) -> datetime:
    return datetime.strptime(name, _FORMATS[kind]).replace(tzinfo=UTC)
