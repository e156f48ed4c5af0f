"""Shares: the part of an account that is kept for a child, so that no sibling can starve it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from budgetguard.spend import ZERO, Vector, at_meters, minus, most, plus, vector
from budgetguard.stores.memory import STORE

if TYPE_CHECKING:
    from budgetguard.stores.memory import Account


class Share(NamedTuple):
    """What an account keeps for one child, while that is open."""

    child: Account
    guaranteed: Vector
    """What the child may use of it at least, from when it was opened."""
    used_before: Vector
    """What the child's account had used by then."""
    window: str
    """The window of the child's account by then."""
    meters: tuple[int, ...]
    """The meters that the account limits."""

    @property
    def _used(self) -> Vector:
        """What the child has used or holds since then; of a new window all is new."""
        used = plus(self.child.settled, self.child.held)
        return minus(used, self.used_before) if self.child.window == self.window else used

    @property
    def left(self) -> Vector:
        """What the child has neither used nor held of it yet."""
        return vector(
            min(mine, max(0, mine - gone))
            for mine, gone in zip(self.guaranteed, self._used, strict=True)
        )

    def covers(self, need: Vector) -> bool:
        """Whether a call fits into what is left of it."""
        left = self.left
        return all(need[meter] <= left[meter] for meter in self.meters)

    @property
    def is_used_up(self) -> bool:
        """Whether the child has settled as much of some meter as it was promised."""
        used = minus(self._used, self.child.held)
        return any(used[meter] >= self.guaranteed[meter] for meter in self.meters)


def claim_share(
    parent: Account, limits: tuple[tuple[int, int], ...], child: Account, part: float
) -> Share:
    """Keep a part of an account for a child that opens now, until it is given back."""
    with STORE.lock:
        share = share_of(parent, limits, child, part)
        parent.shares = (*parent.shares, share)
    return share


def give_back_share(parent: Account, share: Share) -> None:
    """Let siblings use what a child did not; call under the ledger's lock."""
    parent.shares = tuple(each for each in parent.shares if each is not share)


def share_of(
    parent: Account, limits: tuple[tuple[int, int], ...], child: Account, part: float
) -> Share:
    """A part of every limit of the parent, or what is free of it, for a child that opens now."""
    taken = plus(plus(parent.settled, parent.held), kept_for_others(parent, (child,)))
    guaranteed = at_meters(
        (meter, max(0, min(int(limit * part), limit - taken[meter]))) for meter, limit in limits
    )
    used = plus(child.settled, child.held)
    meters = tuple(meter for meter, _ in limits)
    return Share(child, guaranteed, used, child.window, meters)


def kept_for_others(account: Account, lineage: tuple[Account, ...]) -> Vector:
    """What an account keeps for children that are not on the way to the one that calls."""
    kept: dict[Account, Vector] = {}
    for share in account.shares:
        if share.child not in lineage:  # which several handles may have opened
            left, known = share.left, kept.get(share.child, ZERO)
            kept[share.child] = most(left, known)
    total = ZERO
    for each in kept.values():
        total = plus(total, each)
    return total


def is_promised(account: Account, lineage: tuple[Account, ...], need: Vector | None = None) -> bool:
    """Whether a caller draws on a share that covers `need`, or on any that is not used up."""
    return any(
        share.child in lineage and (not share.is_used_up if need is None else share.covers(need))
        for share in account.shares
    )
