"""Held: what one call holds in stores, from the hold to its settlement or release."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from budgetguard import events
from budgetguard.spend import ZERO, Vector, minus
from budgetguard.stores.memory import STORE
from budgetguard.stores.protocol import Release, Settle

if TYPE_CHECKING:
    from collections.abc import Hashable
    from concurrent.futures import Future

    from budgetguard.loops import Loop
    from budgetguard.stores.link import Link
    from budgetguard.stores.protocol import Address, Reply
    from budgetguard.stores.shared import SharedAccount


class Part(NamedTuple):
    """What is held in the accounts of one store and tenant."""

    link: Link
    accounts: tuple[SharedAccount, ...]
    held_in: tuple[tuple[Address, int], ...]
    """Each account's address then, with its window, and its epoch."""
    outage: int | None = None
    """Which time the store was out of reach then, so that it knows nothing of the hold."""

    @property
    def offline(self) -> bool:
        """Whether the store was out of reach."""
        return self.outage is not None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The accounts' addresses then."""
        return tuple(address for address, _ in self.held_in)

    def count_offline(self, need: Vector, used: Vector) -> None:
        """Count what a call really used in the part that is allowed without the store."""
        with STORE.lock:
            if self.outage != self.link.outages:  # that part is whole again
                return
            for account in self.accounts:
                account.settle_offline(need, used)


class Held:
    """The holds of one call, by store."""

    __slots__ = ("_deliveries", "_ended", "_id", "_loop", "_need", "_parts")

    def __init__(self, id: str, need: Vector, loop: str, parts: tuple[Part, ...]) -> None:
        self._ended: Hashable = None
        self._id = id
        self._need = need
        self._loop = loop
        self._parts = parts
        self._deliveries: list[Future[bool]] = []

    def keep_leases(self, loop: Loop | None) -> None:
        """Have the leases of the hold, and of what its loop keeps back, renewed."""
        for part in self._parts:
            if part.offline:
                continue
            part.link.leases.hold(self._id, part.addresses)
            if loop is not None:
                kept = {each.address: loop.keeps_in(each) for each in part.accounts}
                part.link.leases.keep(self._loop, kept)
            part.link.keep_leases()

    def settle(self, used: Vector, *, ended: Hashable, now: bool) -> None:
        """Tell the stores what was used; what cannot be told now is told later.

        Args:
            used: What was used.
            ended: The agent loop of the call, if it is over.
            now: Whether this thread may wait for the store.
        """
        self._ended = ended
        parts = deque(self._parts)
        try:
            while parts:
                self._settle_in(parts.popleft(), used, now=now)
        finally:
            while parts:  # after an interrupt
                self._settle_in(parts.popleft(), used, now=False)

    def release(self, loop: Hashable, *, restores: bool, now: bool) -> None:
        """Give everything back.

        Args:
            loop: The agent loop of the call.
            restores: Whether that loop keeps back for its last call again.
            now: Whether this thread may wait for the store.
        """
        for part in self._parts:
            part.link.leases.end(self._id)
            if part.offline:  # nobody but this process knows of it
                part.count_offline(self._need, ZERO)
                continue
            kept = tuple(each.reserves.get(loop, ZERO) for each in part.accounts)
            name, reserves = (self._loop, kept) if restores and self._loop else ("", ())
            if name:
                keeps = (any(each) for each in kept)
                part.link.leases.keep(name, dict(zip(part.addresses, keeps, strict=True)))
            self._deliveries.append(
                part.link.deliver(
                    Release(self._id, part.addresses, name, reserves),
                    partial(self._confirm, part, minus(ZERO, self._need), ZERO),
                    now=now,
                )
            )

    def give_up(self, part: Part, loop: Hashable) -> None:
        """Give back what was asked for in one more store and may have been held there."""
        kept = tuple(each.reserves.get(loop, ZERO) for each in part.accounts)
        reserves = kept if self._loop else ()
        part.link.deliver(
            Release(self._id, part.addresses, self._loop, reserves),
            partial(self._confirm, part, ZERO, ZERO),  # a hold that was never confirmed
            now=False,
        )

    def _settle_in(self, part: Part, used: Vector, *, now: bool) -> None:
        part.link.leases.end(self._id)
        part.link.learning.note()
        if part.offline:
            part.count_offline(self._need, used)
        ended = "" if self._ended is None else self._loop
        if ended:
            part.link.leases.keep(ended, dict.fromkeys(part.addresses, False))
        self._deliveries.append(
            part.link.deliver(
                Settle(self._id, used, part.held_in, ended, part.offline),
                partial(self._settled, part, used),
                now=now,
            )
        )

    async def delivered(self) -> None:
        """Wait until the stores have it, or are known to be out of reach."""
        from asyncio import wrap_future  # noqa: PLC0415 -- only what runs on an event loop waits

        for each in self._deliveries:
            if not each.done():
                await wrap_future(each)

    def _settled(self, part: Part, used: Vector, reply: Reply) -> None:
        freed = ZERO if part.offline else minus(ZERO, self._need)  # else it was never confirmed
        self._confirm(part, freed, used, reply)
        if reply.late and events.listening():
            account = part.accounts[0]
            events.emit(
                events.Late(path=account.address.budget, scope_id=account.address.id, hold=self._id)
            )

    def _confirm(self, part: Part, freed: Vector, used: Vector, reply: Reply) -> None:
        """Take over the balances of an answer that contains what was noted before."""
        with STORE.lock:
            for account, balance in zip(part.accounts, reply.balances, strict=True):
                account.confirm(balance, freed, used, dropped=self._ended)
                account.wake()
