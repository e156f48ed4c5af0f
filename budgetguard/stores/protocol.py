"""What a shared store does: commands in, balances out, each command one atomic step.

A store keeps the accounts of a fleet. Whoever decides about a call does so here, in the process,
with the last balance it saw; the store only does the arithmetic that must be atomic: it holds, if
and only if every line of the hold fits, and answers with the balances as they are then. So a stale
balance costs a second round trip, never a dollar.

Every vector has one integer for each of `HELD_METERS`, usd in nano-dollars. Leases and windows go
by the store's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, get_args

from budgetguard.spend import ZERO, Vector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Window = Literal["hour", "day", "month"]
"""How often an account is renewed, at UTC calendar units."""

WINDOWS: Final[tuple[Window, ...]] = get_args(Window)

KEPT_S: Final = 24 * 3600
"""An account is kept this many seconds after its last use, and at least until its window ends."""


class Address(NamedTuple):
    """Names one account in a store."""

    tenant: str
    """The partition it lies in; all accounts of one command lie in the same."""
    budget: str
    id: str
    window: str = ""
    """The UTC calendar unit: `2026-11-20T21`, `2026-11-20` or `2026-11`; empty if never renewed."""


class Line(NamedTuple):
    """What a hold asks of one account."""

    address: Address
    limits: tuple[tuple[int, int], ...] = ()
    """`(meter, amount)` of each limit that must hold, before extensions; empty: it only pays."""
    reserve: Vector = ZERO
    """What the agent loop of the call keeps back there for its last call, instead of what it kept
    until now."""


class Hold(NamedTuple):
    """Hold `need` on every account, if every line fits.

    A line fits if for each of its limits

    `settled + held + reserved by other loops + need + reserve <= limit + extra`.

    Nothing changes if one does not fit, or if one names a window that is over (or not begun) by the
    store's clock. A hold of that id that is there already is not made again (a retry).
    """

    id: str
    """Identifies the hold; its settlement moves the ledger once."""
    need: Vector
    lines: tuple[Line, ...]
    """Outermost account first."""
    loop: str = ""
    """The agent loop of the call; empty outside of any, and then nothing is reserved."""


class Settle(NamedTuple):
    """Replace a hold by what was used, on every account.

    With a hold whose lease ran out the room was given back already: what was used is added all the
    same, and the reply says `late`. A hold that is not there was settled before, and the reply says
    `repeated`, unless `unheld`, or unless the account itself is not the one that was held in
    (another epoch: the store lost it): then what was used is added, once for each id.
    """

    id: str
    used: Vector
    accounts: tuple[tuple[Address, int], ...]
    """Each account and the epoch it had when the hold was made."""
    ended_loop: str = ""
    """The agent loop that is over with this call, so that its reserve is given back."""
    unheld: bool = False
    """Whether the store was out of reach when the call was admitted, so that it knows no hold."""


class Release(NamedTuple):
    """Give a hold back: nothing was sent. One that is not there changes nothing."""

    id: str
    accounts: tuple[Address, ...]
    loop: str = ""
    reserves: tuple[Vector, ...] = ()
    """What that loop keeps back again in each account, where the call was its last one."""


class Drop(NamedTuple):
    """Give back what an agent loop kept for its last call."""

    loop: str
    accounts: tuple[Address, ...]


class Renew(NamedTuple):
    """Renew the leases of holds and of loops' reserves in one account; unknown ones are skipped."""

    address: Address
    holds: tuple[str, ...]
    loops: tuple[str, ...]


class Extend(NamedTuple):
    """Raise the limits of one account, for everybody and for as long as it lives.

    The same id twice extends once.
    """

    id: str
    address: Address
    extra: Vector


class Read(NamedTuple):
    """Only tell the balances, of accounts that may not exist yet (they are not made)."""

    accounts: tuple[Address, ...]


Command = Hold | Settle | Release | Drop | Renew | Extend | Read


class Balance(NamedTuple):
    """One account, as it is after a command."""

    address: Address
    """With the window that is current by the store's clock, for `Hold` and `Read`."""
    epoch: int = 0
    """Unix time in milliseconds at which the account was made; 0 if there is none."""
    version: int = 0
    """Grows with every change of the account."""
    settled: Vector = ZERO
    held: Vector = ZERO
    reserved: Vector = ZERO
    """What agent loops keep back for their last calls."""
    extra: Vector = ZERO
    """By how much the limits were extended."""
    overshoot: Vector = ZERO
    """What was used beyond what was held."""
    released: int = 0
    """Holds given back, those whose lease ran out included."""
    late: int = 0
    """Settlements that came after their lease had run out."""
    lease_left_s: float | None = None
    """Seconds until the first lease of a hold or reserve may run out; `None`: nothing is held."""


class Reply(NamedTuple):
    """What a store answers."""

    balances: tuple[Balance, ...]
    """In the order of the command's accounts."""
    short: tuple[int, int] | None = None
    """Of a hold that does not fit: the index of the outermost line that is short, and its meter."""
    rolled: bool = False
    """A hold or read named a window that is not current: nothing was changed; the balances name the
    current ones."""
    late: bool = False
    """Some lease had run out before this settlement."""
    repeated: bool = False
    """The hold of a settlement or release is not there: it came before."""


class Store(Protocol):
    """Keeps accounts for many threads, processes or machines. Safe to use from any thread.

    Every method raises `StoreUnavailableError` if the store cannot be reached in time.
    """

    url: str
    """Names the store, without a password."""
    lease_s: float
    """Seconds a hold lives if its worker does not renew it."""
    poll_s: tuple[float, float]
    """Least and most seconds between two looks of an admission that waits."""

    def run(self, command: Command) -> Reply:
        """Do one command in one atomic step."""
        ...

    def listen(self, wake: Callable[[Address], None]) -> None:
        """Call `wake`, in a thread of the store's, when room may have come free in an account.

        A store that cannot tell does nothing: admissions that wait look at it by themselves.
        """
        ...

    def accounts(self, tenant: str | None = None) -> list[Balance]:
        """Every account, or those of one tenant, current windows and older ones."""
        ...

    def load(self, name: str) -> bytes | None:
        """What was last saved under that name."""
        ...

    def save(self, values: Mapping[str, bytes]) -> None:
        """Keep values by name, until they are replaced."""
        ...

    def close(self) -> None:
        """End connections and threads."""
        ...
