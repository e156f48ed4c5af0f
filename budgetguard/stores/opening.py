"""From the `store` of a Budget to the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from budgetguard.stores.protocol import Store

_SQLITE: Final = ("sqlite:///",)
_REDIS: Final = ("redis://", "rediss://")


def check_url(url: object) -> str:
    """The URL of a store.

    Raises:
        TypeError: If it is no string.
        ValueError: If nothing is known that keeps accounts there.
    """
    if not isinstance(url, str):
        msg = f"store must be a URL or None, not {url!r}"
        raise TypeError(msg)
    if not url.startswith(_SQLITE + _REDIS):
        scheme = url.partition(":")[0]
        msg = (
            "store must begin with sqlite:/// (three slashes, then a path; four for an absolute "
            f"one), redis:// or rediss://, not with {scheme + ':'!r}; None is this process's memory"
        )
        raise ValueError(msg)
    return url


def check_there_is(url: str) -> None:
    """Raise `ValueError` for a SQLite file that does not exist, which opening it would make."""
    if not url.startswith(_SQLITE):
        return
    from budgetguard.stores.sqlite.location import locate  # noqa: PLC0415 -- only what is used

    path = Path(locate(url).path)
    if not path.exists():
        msg = f"there is no file {path}"
        raise ValueError(msg)


def open_store(url: str) -> Store:
    """A store at that URL; nothing is connected until it is used.

    Raises:
        ImportError: If the package of its client is not installed.
        ValueError: If the URL has a part that is not known.
    """
    check_url(url)
    if url.startswith(_SQLITE):
        from budgetguard.stores.sqlite import SQLiteStore  # noqa: PLC0415 -- only what is used

        return SQLiteStore(url)
    from budgetguard.stores.redis import RedisStore  # noqa: PLC0415

    return RedisStore(url)
