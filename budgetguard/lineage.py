"""Lineage: who is billed for the calls of a scope, and who answers them, root first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from budgetguard.groups import Group, groups_of
from budgetguard.mode import forced_mode

if TYPE_CHECKING:
    from budgetguard.scope import Scope
    from budgetguard.stores.memory import Account


class Lineage(NamedTuple):
    """The scopes from the root to one scope, by what they have to say."""

    billed: tuple[Scope, ...]
    """Those that pay."""
    answering: tuple[Scope, ...]
    """Those that admit, refuse and steer."""
    observers: tuple[Scope, ...]
    """Those in shadow mode, which only note what they would have done."""
    accounts: tuple[Account, ...]
    """The accounts of those that pay."""
    sends_cap: bool
    """Whether some limit needs the output of a call to be capped."""
    has_deadline: bool
    """Whether some answering scope limits seconds."""
    has_prices: bool = False
    """Whether some scope names prices of its own."""
    renewed: bool = False
    """Whether some account starts anew every hour, day or month."""
    shared: tuple[Group, ...] = ()
    """The scopes whose accounts a store keeps, by store."""


def lineage_of(scope: Scope, *, shield: bool) -> Lineage:
    """The place of a scope below its parent.

    A shield hides it from the scopes above, but not from an account with an id, which may belong
    to others too. A scope whose account is in the lineage already adds nothing to it.
    """
    if forced_mode() == "off":
        return Lineage((), (), (), (), sends_cap=False, has_deadline=False)
    if scope.parent is None:
        return _root(scope)
    above = scope.parent.lineage
    billed, answering, observers = above.billed, above.answering, above.observers
    if shield:
        answering = tuple(each for each in answering if each.has_id)
        observers = ()
    if scope.account not in (each.account for each in billed):
        billed = (*billed, scope)
        if _observes(scope):
            observers = (*observers, scope)
        else:
            answering = (*answering, scope)
    return Lineage(
        billed,
        answering,
        observers,
        tuple(each.account for each in billed),
        sends_cap=any(each.budget.limits_output for each in answering),
        has_deadline=any(each.budget.seconds is not None for each in answering),
        has_prices=any(each.budget.prices for each in billed),
        renewed=any(each.budget.window is not None for each in billed),
        shared=groups_of(billed),
    )


def _root(scope: Scope) -> Lineage:
    budget, alone = scope.budget, (scope,)
    if _observes(scope):
        nobody = Lineage(alone, (), alone, (scope.account,), sends_cap=False, has_deadline=False)
        renewed, shared = budget.window is not None, groups_of(alone)
        return nobody._replace(has_prices=bool(budget.prices), renewed=renewed, shared=shared)
    return Lineage(
        alone, alone, (), (scope.account,), budget.limits_output,
        budget.seconds is not None, bool(budget.prices), budget.window is not None,
        () if budget.store is None else groups_of(alone),
    )  # fmt: skip


def _observes(scope: Scope) -> bool:
    mode = forced_mode()
    return mode == "observe" or (scope.budget.observing and mode != "enforce")
