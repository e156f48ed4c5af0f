"""Which account a scope of a budget belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgetguard.stores.memory import STORE
from budgetguard.stores.protocol import Address

if TYPE_CHECKING:
    from budgetguard.budget import Budget
    from budgetguard.stores.memory import Account


def account_of(budget: Budget, id: str | None, scope_id: str) -> Account:
    """The account of that id; without one that of the budget, if it is renewed, else a new one.

    Args:
        budget: The specification.
        id: Names the account; `None`: the caller named none.
        scope_id: Names a new account.
    """
    if budget.store is None:
        return STORE.account(budget.tenant, budget.name, id, budget.window)
    from budgetguard.stores.link import link_to  # noqa: PLC0415 -- only who has a store needs it

    name = id if id is not None else "" if budget.window is not None else scope_id
    address = Address(budget.tenant, budget.name, name)
    return link_to(budget.store).account(address, budget.window)
