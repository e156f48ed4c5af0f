"""The accounts of a SQLite store, as one command sees and changes them inside its transaction.

Invariant: `held` and `reserved` of an account are the sums of its records of these kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from budgetguard.spend import ZERO, Vector, excess, minus, plus, vector
from budgetguard.stores.protocol import KEPT_S, Address, Balance
from budgetguard.stores.windows import end_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

Kind = Literal["hold", "reserve", "expired", "settled", "extension"]
"""What is known of an id in an account; schema.sql says what each is."""

KEPT_MS: Final = KEPT_S * 1000

_TOUCH_MS: Final = 60_000
"""How exactly the last use is known; an account is kept so much longer. Else each look writes."""

_COLUMNS: Final = """
key, epoch, version, settled, held, reserved, extra, overshoot, released, late, forget
"""
_FIND: Final = f"""
SELECT {_COLUMNS} FROM account WHERE tenant = ? AND budget = ? AND id = ? AND "window" = ?
"""  # noqa: S608 -- nothing but these constants
_MAKE: Final = """
INSERT INTO account VALUES (NULL, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, 0, 0, 0)
"""
_WRITE: Final = """
UPDATE account SET version = ?, settled = ?, held = ?, reserved = ?, extra = ?, overshoot = ?,
released = ?, late = ?, forget = ? WHERE key = ?
"""
# The conditions on kind are those of the indices, word for word, so that SQLite can use them.
_DUE: Final = """
SELECT kind, id, vector FROM record
WHERE account = ? AND kind IN ('hold', 'reserve') AND until <= ?
"""
_FIRST: Final = """
SELECT min(until) FROM record WHERE account = ? AND kind IN ('hold', 'reserve')
"""
_HAVE_DUE: Final = """
SELECT tenant, budget, id, "window" FROM account WHERE key IN
(SELECT account FROM record WHERE kind IN ('hold', 'reserve') AND until <= ?)
"""
_EVERY: Final = f"""
SELECT tenant, budget, id, "window", (
    SELECT min(until) FROM record WHERE account = key AND kind IN ('hold', 'reserve')
), {_COLUMNS} FROM account WHERE tenant = :tenant OR :tenant IS NULL
ORDER BY tenant, budget, id, "window"
"""  # noqa: S608 -- nothing but these constants
_CALL: Final = """
SELECT kind, vector FROM record
WHERE account = ? AND kind IN ('hold', 'expired', 'settled') AND id = ?
"""
_RESERVE: Final = "SELECT vector FROM record WHERE account = ? AND kind = 'reserve' AND id = ?"
_NOTE: Final = "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?)"
_NOTE_ONCE: Final = "INSERT OR IGNORE INTO record VALUES (?, ?, ?, ?, ?)"
_DROP: Final = "DELETE FROM record WHERE account = ? AND kind = ? AND id = ?"
_RENEW: Final = "UPDATE record SET until = ? WHERE account = ? AND kind = ? AND id = ?"
_FORGET: Final = (
    "DELETE FROM record WHERE kind IN ('expired', 'settled') AND until <= :now",
    "DELETE FROM record WHERE account IN (SELECT key FROM account WHERE forget <= :now)",
    "DELETE FROM account WHERE forget <= :now",
)


@dataclass(slots=True)
class Entry:
    """An account that is there; what changes is written when the command ends."""

    key: int
    address: Address
    epoch: int
    version: int
    settled: Vector
    held: Vector
    reserved: Vector
    extra: Vector
    overshoot: Vector
    released: int
    late: int
    forget: int
    changed: bool = False


class Ledger:
    """What one command does to its accounts; in a transaction that is open already."""

    def __init__(self, db: sqlite3.Connection, now_ms: int, lease_ms: int) -> None:
        self._db = db
        self._now = now_ms
        self._lease = lease_ms
        self._entries: dict[Address, Entry | None] = {}

    def find(self, address: Address) -> Entry | None:
        """The account as it is now, leases that ran out given back; `None` if there is none."""
        if address not in self._entries:
            row = self._db.execute(_FIND, address).fetchone()
            self._entries[address] = entry = _entry(address, row) if row else None
            if entry is not None:
                self._expire(entry)
        return self._entries[address]

    def make(self, address: Address) -> Entry:
        """The account, made if there is none."""
        entry = self.find(address)
        if entry is None:
            zero = _text(ZERO)
            values = (*address, self._now, zero, zero, zero, zero, zero)
            key = self._db.execute(_MAKE, values).lastrowid
            assert key is not None  # noqa: S101 -- it is after an INSERT
            vectors = (ZERO, ZERO, ZERO, ZERO, ZERO)
            entry = Entry(key, address, self._now, 0, *vectors, 0, 0, 0, changed=True)
            self._entries[address] = entry
        return entry

    def call(self, entry: Entry, id: str) -> tuple[str, Vector]:
        """What is known of a call, `hold`, `expired` or `settled`, and its vector; or nothing."""
        row = self._db.execute(_CALL, (entry.key, id)).fetchone()
        return (row[0], _vector(row[1])) if row else ("", ZERO)

    def hold(self, entry: Entry, id: str, need: Vector) -> None:
        """Hold `need` until it is given back, or its lease runs out."""
        self._drop(entry, "expired", id)
        self._note(entry, "hold", id, need, self._now + self._lease)
        entry.held = plus(entry.held, need)

    def give_back(self, entry: Entry, id: str, need: Vector) -> None:
        """End a hold."""
        self._drop(entry, "hold", id)
        entry.held = minus(entry.held, need)

    def settle(self, entry: Entry, id: str, used: Vector) -> None:
        """Add what a call used, in place of what it holds, if it holds anything still."""
        kind, held = self.call(entry, id)
        if kind == "hold":
            self.give_back(entry, id, held)
            entry.overshoot = plus(entry.overshoot, excess(used, held))
        elif kind == "expired":
            self._drop(entry, "expired", id)
            entry.late += 1
        entry.settled = plus(entry.settled, used)
        entry.changed = True

    def remember_settled(self, entry: Entry, id: str) -> None:
        """Know a settlement without a hold, if it comes again in the next `KEPT_S` seconds."""
        self._note(entry, "settled", id, ZERO, self._now + KEPT_MS)

    def reserved(self, entry: Entry, loop: str) -> Vector:
        """What an agent loop keeps back."""
        row = self._db.execute(_RESERVE, (entry.key, loop)).fetchone()
        return _vector(row[0]) if row else ZERO

    def reserve(self, entry: Entry, loop: str, reserve: Vector) -> None:
        """Replace what an agent loop keeps back."""
        before = self.reserved(entry, loop)
        entry.reserved = plus(minus(entry.reserved, before), reserve)
        if reserve != ZERO:
            self._note(entry, "reserve", loop, reserve, self._now + self._lease)
        elif before != ZERO:
            self._drop(entry, "reserve", loop)

    def extend(self, entry: Entry, id: str, extra: Vector) -> None:
        """Raise the limits, once for each id."""
        values = (entry.key, "extension", id, _text(extra), 0)
        if self._db.execute(_NOTE_ONCE, values).rowcount > 0:
            entry.extra = plus(entry.extra, extra)
            entry.changed = True

    def renew(self, entry: Entry, kind: Kind, ids: Iterable[str]) -> None:
        """Let leases begin anew."""
        until = self._now + self._lease
        found = self._db.executemany(_RENEW, [(until, entry.key, kind, id) for id in ids])
        entry.changed |= found.rowcount > 0

    def balances(self, addresses: Iterable[Address]) -> tuple[Balance, ...]:
        """The accounts, in that order; what was changed is written."""
        entries = [(address, self.find(address)) for address in addresses]
        self._finish()
        return tuple(
            Balance(address) if entry is None else self._balance(entry, self._first(entry))
            for address, entry in entries
        )

    def everything(self, tenant: str | None) -> list[Balance]:
        """Every account, or those of one tenant, leases that ran out given back."""
        for row in self._db.execute(_HAVE_DUE, (self._now,)).fetchall():
            self.find(Address(*row))
        self._finish()
        rows = self._db.execute(_EVERY, {"tenant": tenant}).fetchall()
        return [self._balance(_entry(Address(*row[:4]), row[5:]), row[4]) for row in rows]

    def sweep(self) -> None:
        """Forget what was long out of use."""
        for statement in _FORGET:
            self._db.execute(statement, {"now": self._now})

    def _finish(self) -> None:
        """Write what changed."""
        for entry in self._entries.values():
            if entry is None:
                continue
            forget = max(self._now, int(end_of(entry.address.window) * 1000)) + KEPT_MS
            if entry.changed:
                entry.version += 1
            if entry.changed or forget > entry.forget:
                self._write(entry, forget + _TOUCH_MS)

    def _note(self, entry: Entry, kind: Kind, id: str, vector: Vector, until: int) -> None:
        self._db.execute(_NOTE, (entry.key, kind, id, _text(vector), until))
        entry.changed = True

    def _drop(self, entry: Entry, kind: Kind, id: str) -> None:
        if self._db.execute(_DROP, (entry.key, kind, id)).rowcount > 0:
            entry.changed = True

    def _expire(self, entry: Entry) -> None:
        for kind, id, text in self._db.execute(_DUE, (entry.key, self._now)).fetchall():
            if kind == "hold":
                self.give_back(entry, id, _vector(text))
                entry.released += 1
                self._note(entry, "expired", id, _vector(text), self._now + KEPT_MS)
            else:
                self.reserve(entry, id, ZERO)

    def _write(self, entry: Entry, forget: int) -> None:
        vectors = (entry.settled, entry.held, entry.reserved, entry.extra, entry.overshoot)
        counts = (entry.released, entry.late, forget)
        self._db.execute(_WRITE, (entry.version, *map(_text, vectors), *counts, entry.key))

    def _first(self, entry: Entry) -> int | None:
        """When the first lease may run out."""
        (until,) = self._db.execute(_FIRST, (entry.key,)).fetchone()
        return until

    def _balance(self, entry: Entry, first: int | None) -> Balance:
        left_s = None if first is None else (first - self._now) / 1000
        return Balance(
            entry.address, entry.epoch, entry.version, entry.settled, entry.held, entry.reserved,
            entry.extra, entry.overshoot, entry.released, entry.late, left_s,
        )  # fmt: skip


def _vector(text: str) -> Vector:
    return vector(map(int, text.split()))


def _text(vector: Vector) -> str:
    return " ".join(map(str, vector))


def _entry(address: Address, row: Sequence[Any]) -> Entry:
    """An account from its columns, as `_COLUMNS` names them."""
    key, epoch, version, *rest = row
    settled, held, reserved, extra, overshoot = map(_vector, rest[:5])
    released, late, forget = rest[5:]
    return Entry(
        key, address, epoch, version, settled, held, reserved, extra, overshoot,
        released, late, forget,
    )  # fmt: skip
