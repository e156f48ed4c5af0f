"""Groups: which scopes of a lineage have their accounts in which store."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from budgetguard.stores.memory import STORE
from budgetguard.stores.protocol import Read

if TYPE_CHECKING:
    from collections.abc import Iterable

    from budgetguard.scope import Scope
    from budgetguard.stores.link import Link
    from budgetguard.stores.memory import Account
    from budgetguard.stores.protocol import Balance, Reply
    from budgetguard.stores.shared import SharedAccount


class Group(NamedTuple):
    """The scopes of a lineage whose accounts one store keeps in one tenant, outermost first."""

    link: Link
    members: tuple[tuple[Scope, SharedAccount], ...]

    def take(self, reply: Reply, known: tuple[Balance, ...] = ()) -> None:
        """Take over the balances of an answer, and the windows that it says are current.

        Args:
            reply: The answer.
            known: What was known before it was asked for, so that an account that is no more is
                told from one that others here have made since.
        """
        with STORE.lock:
            for index, (_, account) in enumerate(self.members):
                balance = reply.balances[index]
                account.move_to(balance.address.window)
                if not reply.rolled and known and account.balance is known[index]:
                    account.forget_balance()
                if not reply.rolled:
                    account.confirm(balance)

    def known(self) -> tuple[Balance, ...]:
        """The last balances."""
        return tuple(account.balance for _, account in self.members)

    def read(self) -> Read:
        """The command that asks for the balances."""
        return Read(tuple(account.address for _, account in self.members))

    def refresh(self) -> None:
        """Ask for the balances now."""
        rolled = True
        while rolled:
            known = self.known()
            reply = self.link.run(self.read())
            self.take(reply, known)
            rolled = reply.rolled

    def may_go_on_alone(self, answering: tuple[Scope, ...]) -> bool:
        """Whether every budget that answers allows a part while the store is out of reach."""
        asked = [scope for scope, _ in self.members if scope in answering]
        return all(scope.budget.on_store_failure == "local" for scope in asked)


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
