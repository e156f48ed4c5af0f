"""Groups: which scopes of a lineage have their accounts in which store."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from budgetguard.scope import Scope
    from budgetguard.stores.link import Link
    from budgetguard.stores.memory import Account
    from budgetguard.stores.shared import SharedAccount


class Group(NamedTuple):
    """The scopes of a lineage whose accounts one store keeps in one tenant, outermost first."""

    link: Link
    members: tuple[tuple[Scope, SharedAccount], ...]

    @property
    def may_go_on_alone(self) -> bool:
        """Whether every budget allows a part while the store is out of reach."""
        return all(scope.budget.on_store_failure == "local" for scope, _ in self.members)


def is_shared(account: Account) -> TypeGuard[SharedAccount]:
    """Whether a store keeps it, so that it can be held in only there."""
    return account.shared


def groups_of(scopes: Iterable[Scope]) -> tuple[Group, ...]:
    """The groups of the billed scopes of a lineage that stores keep."""
    found: dict[tuple[int, str], list[tuple[Scope, SharedAccount]]] = {}
    for scope in scopes:
        account = scope.account
        if is_shared(account):
            key = id(account.link), account.address.tenant
            found.setdefault(key, []).append((scope, account))
    return tuple(Group(each[0][1].link, tuple(each)) for each in found.values())
