"""Extending a budget: more of what it limits, by the person's own code, never by a tool."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, TypedDict

from budgetguard import notices
from budgetguard.checks import as_money, check_count, check_seconds
from budgetguard.current import inside_tool
from budgetguard.groups import Group, is_shared
from budgetguard.spend import METERS, Limits, Vector, at_meters, plus
from budgetguard.stores.memory import STORE
from budgetguard.stores.protocol import Extend

if TYPE_CHECKING:
    from budgetguard.price import Amount
    from budgetguard.scope import Scope
    from budgetguard.stores.shared import SharedAccount


class Amounts(TypedDict, total=False):
    """By how much each limit is raised; units are those of `Budget`."""

    tokens: int
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    turns: int
    usd: Amount
    seconds: float


def extension_of(scope: Scope, amounts: Amounts) -> Limits:
    """The amounts, checked.

    Raises:
        PermissionError: Inside a tool of the agent.
        ScopeClosed: If the scope takes no calls any more.
        ValueError: For an amount that is not positive, none at all, or a meter without a limit.
        TypeError: For an amount that is no number, or no meter of that name.
    """
    if inside_tool():
        msg = "a tool cannot extend the budget of its agent: do it in the code that runs the agent"
        raise PermissionError(msg)
    scope.check_open()
    if not amounts:
        msg = f"extend() needs an amount for budget {scope.path!r}, for instance extend(turns=5)"
        raise ValueError(msg)
    checked = {name: _checked(scope, name, amount) for name, amount in amounts.items()}
    return Limits(**checked)


def _checked(scope: Scope, name: str, amount: object) -> Any:
    if name not in METERS:
        msg = f"extend() knows the meters {', '.join(METERS)}, not {name!r}"
        raise TypeError(msg)
    if getattr(scope.budget, name) is None:
        msg = f"budget {scope.path!r} does not limit {name}, so it cannot be extended"
        raise ValueError(msg)
    if name == "usd":
        return as_money(amount)
    if name == "seconds":
        check_seconds(amount, name, least_is_open=True)
    else:
        check_count(amount, name)
    return amount


def raise_limits(scope: Scope, extension: Limits) -> None:
    """Raise the limits, in the store that keeps the account too, and take calls again.

    Raises:
        StoreUnavailableError: If that store is out of reach. After a timeout it may have raised
            them all the same: look with `refresh()` before trying again.
    """
    account, extra = scope.account, at_meters(extension.held())
    if is_shared(account):
        _raise_in_store(scope, account, extra)
    with STORE.lock:
        if not account.shared:
            account.renew()
            account.extra = plus(account.extra, extra)
        scope.deadline += extension.seconds or 0.0
        scope.more_seconds += extension.seconds or 0.0
        scope.standing.unlatch()
        for loop in scope.loops.of(scope):
            loop.granted = False
        account.wake()
    for name in METERS:
        amount = getattr(extension, name)
        if amount is not None:
            notices.decided(scope, "extend", "manual", asked=name, used=str(amount))


def _raise_in_store(scope: Scope, account: SharedAccount, extra: Vector) -> None:
    Group(account.link, ((scope, account),)).refresh()  # in the window that is current
    reply = account.link.run(Extend(secrets.token_hex(8), account.address, extra))
    with STORE.lock:
        account.confirm(reply.balances[0])
