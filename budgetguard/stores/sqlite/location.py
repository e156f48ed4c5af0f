"""What the path or URL of a SQLite store says."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from budgetguard.stores.protocol import KEPT_S

_SCHEME: Final = "sqlite:///"
_LEAST_S: Final = 0.001
_MOST_S: Final = {"lease": float(KEPT_S), "timeout": 3600.0}
"""The parameters. A hold that lived longer than its account would be lost with it."""


class Location(NamedTuple):
    """What a URL says."""

    url: str
    """The same with an absolute path, so that it does not change with the working directory."""
    path: str
    lease_s: float = 30.0
    """Seconds a hold lives if its worker does not renew it."""
    timeout_s: float = 5.0
    """Seconds to wait for other processes."""


def locate(path_or_url: str | os.PathLike[str]) -> Location:
    """Where a store is: a path, or `sqlite:///path?lease=30&timeout=5` (`sqlite:////absolute`).

    Raises:
        ValueError: If it names no file, or has a parameter that is unknown or out of range.
    """
    text = os.fspath(path_or_url)
    if text.startswith("sqlite:") and not text.startswith(_SCHEME):
        msg = f"a SQLite URL has three slashes and then a path, sqlite:///fleet.db, not {text!r}"
        raise ValueError(msg)
    given, _, query = text.removeprefix(_SCHEME).partition("?")
    if query and not text.startswith(_SCHEME):
        msg = f"only a URL has parameters: sqlite:///{text}"
        raise ValueError(msg)
    if given in {"", ":memory:"} or "\0" in given:
        msg = f"{text!r} names no file; a store in the memory of this process is store=None"
        raise ValueError(msg)
    path = os.path.abspath(given)  # noqa: PTH100 -- Path.resolve() would follow links
    seconds = _parameters(query)
    url = f"{_SCHEME}{path}" + (f"?{query}" if query else "")
    return Location(url, path, seconds.get("lease", 30.0), seconds.get("timeout", 5.0))


def _parameters(query: str) -> dict[str, float]:
    """The seconds that a query names."""
    seconds: dict[str, float] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _MOST_S or name in seconds:
            msg = f"a SQLite URL takes lease and timeout, each once, not {name!r}"
            raise ValueError(msg)
        seconds[name] = _seconds(name, value)
    return seconds


def _seconds(name: str, value: str) -> float:
    number = math.nan
    with suppress(ValueError):
        number = float(value)
    if not _LEAST_S <= number <= _MOST_S[name]:
        msg = f"{name} must be seconds from {_LEAST_S} to {_MOST_S[name]:g}, not {value!r}"
        raise ValueError(msg)
    return number
