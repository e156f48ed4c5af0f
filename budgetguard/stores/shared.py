"""SharedAccount: what this process knows of an account that a store keeps for many.

Its numbers are the last balance that the store told, and on top of it what this process has done
since and the store has not confirmed. Decisions read it like any other account; whether a hold
really fits is the store's to say.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple

from budgetguard.spend import TURNS, ZERO, Vector, at_meters, excess, minus, most, plus
from budgetguard.stores.memory import STORE, Account
from budgetguard.stores.protocol import Address, Balance

if TYPE_CHECKING:
    from collections.abc import Hashable

    from budgetguard.stores.link import Link
    from budgetguard.stores.protocol import Window
    from budgetguard.waiting import Waiter

FRESH_S: float = 1.0
"""A balance older than this many seconds is read anew before policies are asked."""

OFFLINE_SHARE: float = 0.1
"""The part of what was left that each process may use while the store is out of reach."""


class Unconfirmed(NamedTuple):
    """What this process did to an account and the store has not confirmed yet."""

    held: Vector = ZERO
    settled: Vector = ZERO


class SharedAccount(Account):
    """The mirror of an account; everything here changes under the ledger's lock."""

    __slots__ = (
        "__weakref__", "_at_least", "_leaving", "_offline_room", "_offline_used",
        "_since", "_unconfirmed", "address", "balance", "link", "read_at",
    )  # fmt: skip

    shared = True

    def __init__(self, link: Link, address: Address, renewed: Window | None) -> None:
        super().__init__(renewed)
        self.link = link
        self.address = address._replace(window=self.window)
        self.balance = Balance(self.address)
        self.read_at = float("-inf")
        """Monotonic time of the last balance."""
        self._unconfirmed = Unconfirmed()
        self._at_least = ZERO
        """What was settled when the balance came; what was unconfirmed then may be in both."""
        self._since = ZERO
        """What was noted as settled after that."""
        self._leaving: dict[Hashable, Vector] = {}
        """What loops of this process keep no more, and the store may not know that."""
        self._offline_room: Vector | None = None
        self._offline_used = ZERO

    @property
    def was_read(self) -> bool:
        """Whether the store has told anything of it."""
        return self.read_at > float("-inf")

    @property
    def is_fresh(self) -> bool:
        """Whether the balance is recent enough to ask policies with."""
        return time.monotonic() - self.read_at < FRESH_S

    def renew(self) -> None:
        """Do nothing: a shared account starts anew when its store says so."""

    def hold(self, need: Vector) -> None:
        """Note a hold that is about to be asked for."""
        self._change(held=need)

    def settle(self, need: Vector, used: Vector) -> None:
        """Note a settlement that is about to be sent."""
        self._since = plus(self._since, used)
        self._change(held=minus(ZERO, need), settled=used)

    def release(self, need: Vector) -> None:
        """Note a release that is about to be sent."""
        self._change(held=minus(ZERO, need))

    def unhold(self, need: Vector) -> None:
        """Forget a hold that the store did not make."""
        self._change(held=minus(ZERO, need))

    def drop(self, loop: Hashable) -> None:
        """Note that nothing is kept back for that loop; the store is about to be told."""
        kept = self.reserves.pop(loop, None)
        if kept is not None:
            self._leaving[loop] = kept

    def look_again_s(self, waiter: Waiter) -> float:
        """Seconds until the first in line looks by himself; the others wait for him."""
        self.link.watch()
        with STORE.lock:
            if self.waiters and self.waiters[0] is not waiter:
                return float("inf")
        least, most = self.link.store.poll_s
        return random.uniform(least, most)  # noqa: S311 -- not a secret

    def confirm(
        self,
        balance: Balance,
        held: Vector = ZERO,
        settled: Vector = ZERO,
        *,
        dropped: Hashable = None,
    ) -> None:
        """Take over a balance that contains what was noted before.

        Args:
            balance: What the store answered.
            held: What it contains that was noted as held.
            settled: What it contains that was noted as settled.
            dropped: The loop that keeps nothing back in it any more.
        """
        self._leaving.pop(dropped, None)
        if balance.address.window != self.address.window:
            return
        known = self.balance
        if (balance.epoch, balance.version) >= (known.epoch, known.version):
            is_same = known.epoch in {0, balance.epoch}  # else the store lost what it knew
            self._at_least, self._since = self.settled if is_same else ZERO, ZERO
            self.balance = balance
            self.read_at = time.monotonic()
        self._change(held=minus(ZERO, held), settled=minus(ZERO, settled))

    def forget_balance(self) -> None:
        """Take the next one, even if it says that there is no such account any more."""
        self.balance = Balance(self.address)

    def move_to(self, window: str) -> None:
        """Go on with the window that the store says is current."""
        if window == self.address.window:
            return
        self.address = self.address._replace(window=window)
        self.balance = Balance(self.address)
        self.read_at = float("-inf")
        self._unconfirmed = Unconfirmed()
        self._at_least = self._since = ZERO
        self._leaving = {}
        self._offline_room, self._offline_used = None, ZERO
        self.start(window)

    def allow_offline(self, need: Vector, limits: tuple[tuple[int, int], ...]) -> bool:
        """Whether a call fits into the part that may be used while the store is out of reach."""
        if self._offline_room is None:
            self._offline_room = _room(self.balance, limits)
        used = plus(self._offline_used, need)
        if any(used[meter] > self._offline_room[meter] for meter, _ in limits):
            return False
        self._offline_used = used
        return True

    def settle_offline(self, need: Vector, used: Vector) -> None:
        """Count what such a call really used instead of what it needed at most."""
        self._offline_used = excess(plus(self._offline_used, used), need)

    def online(self) -> None:
        """The store is in reach again, and knows everything."""
        self._offline_room, self._offline_used = None, ZERO
        self._leaving = {}

    def _change(self, *, held: Vector = ZERO, settled: Vector = ZERO) -> None:
        before = self._unconfirmed
        self._unconfirmed = now = Unconfirmed(
            plus(before.held, held), plus(before.settled, settled)
        )
        balance = self.balance
        self.held = plus(balance.held, now.held)
        self.settled = balance.settled
        if any(now.settled):
            # The balance may have what is unconfirmed, where another answer overtook the one that
            # says so. Counted twice, it would refuse calls; counted short, the store still does.
            self.settled = plus(most(balance.settled, self._at_least), self._since)
        else:
            self._at_least = self._since = ZERO
        self.overshoot = balance.overshoot
        self.extra = balance.extra if any(balance.extra) else ZERO
        self.released = balance.released
        self.settlements = self.settled[TURNS]
        self.admitted = self.settlements + self.held[TURNS] + self.released
        elsewhere = excess(balance.reserved, self._kept_here())
        self.elsewhere = elsewhere if any(elsewhere) else ZERO
        self.last_used = time.monotonic()

    def _kept_here(self) -> Vector:
        total = ZERO
        for reserve in (self._leaving | self.reserves).values():
            total = plus(total, reserve)
        return total


def _room(balance: Balance, limits: tuple[tuple[int, int], ...]) -> Vector:
    """A share of what the last balance left of each limit."""
    used = plus(balance.settled, balance.held)
    left = ((meter, limit + balance.extra[meter] - used[meter]) for meter, limit in limits)
    return at_meters((meter, int(max(0, amount) * OFFLINE_SHARE)) for meter, amount in left)
