"""Commands as Redis takes them, and what it answers: one script each, and packed integers.

Invariant: every key of a tenant has the same hash tag, so that one script may change them all in a
cluster too. Lua counts in doubles: amounts are cut off at 2^53 - 1, beyond which they are inexact
(nine million dollars; no limit above is told from this one).
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from importlib.resources import files
from struct import Struct, pack
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote

from budgetguard.spend import ZERO
from budgetguard.stores.protocol import (
    Address,
    Balance,
    Drop,
    Extend,
    Hold,
    Read,
    Release,
    Renew,
    Reply,
    Settle,
)
from budgetguard.stores.windows import end_of, start_of, window_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from budgetguard.stores.protocol import Command

MOST: Final = 2**53 - 1
"""The highest amount that Lua counts exactly."""

_HEAD: Final = Struct("<6q")
_TOTALS: Final = Struct("<38q")
"""The totals of an account, in the order of account.lua."""


class Script(NamedTuple):
    """A Lua script."""

    text: str
    sha: str
    """By which a Redis that has seen the text knows it."""


class Request(NamedTuple):
    """One command as Redis takes it."""

    script: Script
    addresses: tuple[Address, ...]
    keys: list[str]
    arguments: tuple[str | bytes, ...]


def request(command: Command, lease_s: float) -> Request:
    """The script, the keys and the arguments of a command."""
    name, write = _WRITERS[type(command)]
    addresses, arguments = write(command, int(lease_s * 1000))
    return Request(_script(name), addresses, [key_of(each) for each in addresses], arguments)


def listing(addresses: tuple[Address, ...]) -> Request:
    """Tells the balances of one tenant's accounts, whether their windows are current or not."""
    keys = [key_of(each) for each in addresses]
    return Request(_script("read"), addresses, keys, (_packed([0, 0] * len(keys)),))


def reply(addresses: tuple[Address, ...], answer: bytes) -> Reply:
    """What the script answered."""
    now, rolled, late, repeated, line, meter = _HEAD.unpack_from(answer)
    if rolled:
        current = (each._replace(window=window_like(each.window, now / 1000)) for each in addresses)
        return Reply(tuple(map(Balance, current)), rolled=True)
    balances = tuple(
        _balance(address, now, totals)
        for address, totals in zip(
            addresses, _TOTALS.iter_unpack(answer[_HEAD.size :]), strict=True
        )
    )
    short = None if line < 0 else (line, meter)
    return Reply(balances, short, late=bool(late), repeated=bool(repeated))


@lru_cache(maxsize=4096)
def key_of(address: Address) -> str:
    """The key of an account. Whatever its names have in them, nothing but the tag is in braces."""
    tenant, *names = (quote(part, safe="", errors="surrogatepass") for part in address)
    return f"{{budgetguard:{tenant}}}:account:{':'.join(names)}"


def address_of(key: str) -> Address:
    """The account of a key."""
    _, tenant, _, budget, id, window = (
        unquote(part, errors="surrogatepass") for part in key.replace("}", "").split(":")
    )
    return Address(tenant, budget, id, window)


def accounts_like(tenant: str | None) -> str:
    """The pattern of the keys of all accounts, or of those of one tenant."""
    name = "*" if tenant is None else quote(tenant, safe="", errors="surrogatepass")
    return f"{{budgetguard:{name}}}:account:*"


def learned_key(name: str) -> str:
    """The key of a value that is kept by name."""
    return f"{{budgetguard:learned}}:learned:{quote(name, safe='', errors='surrogatepass')}"


@cache
def _script(name: str) -> Script:
    folder = files("budgetguard.stores") / "lua"
    text = "\n".join((folder / f"{each}.lua").read_text("utf-8") for each in ("account", name))
    return Script(text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 -- Redis names them so


def _balance(address: Address, now: int, totals: tuple[Any, ...]) -> Balance:
    """One account; `totals` begin with epoch, version, last use, leases and the first one's end."""
    left_s = max(0, totals[4] - now) / 1000 if totals[3] else None
    return Balance(
        address, totals[0], totals[1], totals[6:12], totals[12:18], totals[18:24], totals[24:30],
        totals[30:36], totals[36], totals[37], left_s,
    )  # fmt: skip


def _packed(numbers: Sequence[int]) -> bytes:
    if max(numbers, default=0) > MOST:
        numbers = [min(number, MOST) for number in numbers]
    return pack(f"<{len(numbers)}q", *numbers)


@lru_cache(maxsize=1024)
def _span_ms(window: str) -> tuple[int, int]:
    """Start and end of a window; 0 and 0 without one."""
    return int(start_of(window) * 1000), int(end_of(window) * 1000)


def _ends(addresses: Iterable[Address]) -> list[int]:
    return [_span_ms(each.window)[1] for each in addresses]


_Written = tuple[tuple[Address, ...], tuple[str | bytes, ...]]


def _hold(command: Hold, lease_ms: int) -> _Written:
    numbers = [lease_ms, *command.need]
    for address, limits, reserve in command.lines:
        numbers += _span_ms(address.window)
        numbers += reserve
        numbers.append(len(limits))
        for meter, amount in limits:
            numbers += (meter + 1, amount)
    addresses = tuple([line.address for line in command.lines])
    return addresses, (command.id, command.loop, _packed(numbers))


def _settle(command: Settle, _: int) -> _Written:
    numbers = [int(command.unheld), *command.used]
    for address, epoch in command.accounts:
        numbers += (epoch, _span_ms(address.window)[1])
    addresses = tuple([address for address, _ in command.accounts])
    return addresses, (command.id, command.ended_loop, _packed(numbers))


def _release(command: Release, lease_ms: int) -> _Written:
    numbers = [lease_ms]
    reserves = command.reserves or (ZERO,) * len(command.accounts)
    for end, reserve in zip(_ends(command.accounts), reserves, strict=True):
        numbers += (end, *reserve)
    loop = command.loop if command.reserves else ""
    return command.accounts, (command.id, loop, _packed(numbers))


def _drop(command: Drop, _: int) -> _Written:
    return command.accounts, (command.loop, _packed(_ends(command.accounts)))


def _renew(command: Renew, lease_ms: int) -> _Written:
    records = [*(f"h:{each}" for each in command.holds), *(f"r:{each}" for each in command.loops)]
    numbers = [lease_ms, *_ends([command.address])]
    return (command.address,), (_packed(numbers), *records)


def _extend(command: Extend, _: int) -> _Written:
    numbers = [*_ends([command.address]), *command.extra]
    return (command.address,), (command.id, _packed(numbers))


def _read(command: Read, _: int) -> _Written:
    spans = [number for each in command.accounts for number in _span_ms(each.window)]
    return command.accounts, (_packed(spans),)


_WRITERS: Final[dict[type[Command], tuple[str, Callable[[Any, int], _Written]]]] = {
    Hold: ("hold", _hold),
    Settle: ("settle", _settle),
    Release: ("release", _release),
    Drop: ("drop", _drop),
    Renew: ("renew", _renew),
    Extend: ("extend", _extend),
    Read: ("read", _read),
}
