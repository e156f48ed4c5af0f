"""From the `store` of a Budget to the store: one for each URL and process, made on first use."""

from __future__ import annotations

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
            f"store must be sqlite:///file, redis://host or rediss://host, not {scheme!r}...; "
            "None is the memory of this process"
        )
        raise ValueError(msg)
    return url


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
