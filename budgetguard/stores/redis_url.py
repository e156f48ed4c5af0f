"""What the URL of a Redis says: our own parameters, and the rest, which goes to redis-py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_SCHEMES: Final = ("redis", "rediss")

_PASSED_ON: Final = frozenset({
    "client_name", "max_connections",
    "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname",
    "ssl_ciphers", "ssl_keyfile", "ssl_password",
})  # fmt: skip
"""Parameters of redis-py that cannot break what the store promises."""


class RedisUrl(NamedTuple):
    """A URL, taken apart."""

    name: str
    """Names the server and database: no user, no password, no parameters."""
    address: str
    """What redis-py connects to, with user and password."""
    lease_s: float = 30.0
    """Seconds a hold lives if its worker does not renew it."""
    timeout_s: float = 2.0
    """Seconds for connecting, and for each command."""
    cluster: bool = False
    """Whether the server belongs to a Redis Cluster."""


def parse(url: str) -> RedisUrl:
    """Take a URL apart.

    Raises:
        ValueError: A part of it, or a parameter, is unknown or invalid; its value is not repeated,
            as it may be a password.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(given.keys() - _PASSED_ON - {"lease", "timeout", "cluster"}):
        raise ValueError(f"the URL of a Redis has no parameter {unknown[0]!r}")
    cluster = _flag(given, "cluster")
    database = _database(parts)
    if cluster and database not in {"", "0"}:
        raise ValueError("a Redis Cluster has only database 0: leave /db out of its URL")
    return RedisUrl(
        name=urlunsplit((parts.scheme, _host(parts), parts.path, "", "")),
        address=urlunsplit((parts.scheme, parts.netloc, parts.path, _rest(given), "")),
        lease_s=_seconds(given, "lease", 30.0),
        timeout_s=_seconds(given, "timeout", 2.0),
        cluster=cluster,
    )


def _host(parts: SplitResult) -> str:
    """Host and port."""
    if parts.scheme not in _SCHEMES:
        raise ValueError("the URL of a Redis begins with redis:// or rediss://")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port in the URL of a Redis is no number up to 65535") from None
    if not parts.hostname:
        raise ValueError("the URL of a Redis names no host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host if port is None else f"{host}:{port}"


def _database(parts: SplitResult) -> str:
    """The number of the database, or nothing."""
    database = parts.path.strip("/")
    if database and not (database.isascii() and database.isdigit()):
        raise ValueError("the database in the URL of a Redis is no number")
    return database


def _rest(given: dict[str, str]) -> str:
    """The parameters of redis-py."""
    return urlencode({name: value for name, value in given.items() if name in _PASSED_ON})


def _seconds(given: dict[str, str], name: str, default: float) -> float:
    """A parameter of more than no seconds; Redis counts in milliseconds."""
    try:
        seconds = float(given.get(name, default))
    except ValueError:
        seconds = math.nan
    if not 0.001 <= seconds <= 1e9:  # noqa: PLR2004 -- a millisecond, and some thirty years
        raise ValueError(f"{name!r} in the URL of a Redis is no number of seconds above 0.001")
    return seconds


def _flag(given: dict[str, str], name: str) -> bool:
    """A parameter that is 0 or 1."""
    if (value := given.get(name, "0")) not in {"0", "1"}:
        raise ValueError(f"{name!r} in the URL of a Redis is 0 or 1")
    return value == "1"
