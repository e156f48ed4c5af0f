"""Admission where a store keeps an account for many: decided here, held there, in one round trip.

The gate decides with the last balances this process saw and holds in its own memory; then each
store is asked to hold, which it does only if it fits by what is true there. If it does not, what
was held is forgotten and the call is decided anew, with the balances of the answer. A refusal by an
old balance is read anew before it counts. So no decision to spend is ever made on old numbers.

Everything here is a generator that says what to ask of which store; `waiting` drives it in a thread
or in a task.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from budgetguard.admission import Grant, Short
from budgetguard.case import Case
from budgetguard.errors import StoreUnavailableError
from budgetguard.gate import check_call
from budgetguard.groups import Group, is_shared
from budgetguard.spend import TURNS, ZERO
from budgetguard.stores.held import Held, Part
from budgetguard.stores.link import Ask, loop_name
from budgetguard.stores.memory import STORE
from budgetguard.stores.protocol import Drop, Hold, Line

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable, Iterable

    from budgetguard.call import Call
    from budgetguard.loops import Loop
    from budgetguard.scope import Scope
    from budgetguard.stores.memory import Account
    from budgetguard.stores.protocol import Reply
    from budgetguard.stores.shared import SharedAccount
    from budgetguard.ticket import Ticket
    from budgetguard.waiting import Waiter

_MOST_TRIES: Final = 8
"""How often a call is decided anew before it waits, where others are faster every time."""

_DELIVERY_S: Final = 0.005
"""Seconds, more each time, for the courier to tell a store what was given back before."""


def attempt_shared(
    scope: Scope, call: Call, owner: object, waiter: Waiter | None
) -> Generator[Ask | float, Any, Ticket | Short]:
    """Admit a call, or say which scope lacks room for the moment (and queue the waiter there).

    Raises:
        BudgetExceeded: If the call is refused.
        StoreUnavailableError: If a store is out of reach, and its budget refuses then.
        UnpricedModelError: If a usd limit answers and the model has no price.
        ScopeClosed: If the scope, or one above it, is closed.
    """
    check_call(call)
    fresh = yield from _read(scope, only_old=True)
    for attempt in range(_MOST_TRIES):
        case = Case(scope, call)
        verdict = case.decide(owner, waiter, firmly=fresh)
        if isinstance(verdict, Grant):
            blocked = yield from _hold(case, verdict)
            if blocked is None:
                return case.concluded(verdict)
            if attempt == _MOST_TRIES - 1:
                return _queued(blocked, waiter)
            if any(each.link.undelivered for each in scope.lineage.shared):
                yield _DELIVERY_S * (attempt + 1)  # what was given back here is on its way
            fresh = len(scope.lineage.shared) == 1  # of other stores nothing new was heard
        elif fresh:
            return case.concluded(verdict)
        else:
            yield from _read(scope, only_old=False)
            fresh = True
    raise AssertionError  # the last attempt returned


def _queued(short: Short, waiter: Waiter | None) -> Short:
    if waiter is not None:
        with STORE.lock:
            waiter.join(short.scope.account)
    return short


def _read(scope: Scope, *, only_old: bool) -> Generator[Ask, Reply, bool]:
    """Read balances; returns whether all of them are news."""
    everything = True
    for group in scope.lineage.shared:
        if only_old and all(account.is_fresh for _, account in group.members):
            everything = False
            continue
        try:
            yield from _read_group(group)
        except StoreUnavailableError:
            if not group.may_go_on_alone(scope.lineage.answering):
                raise
    return everything


def _read_group(group: Group) -> Generator[Ask, Reply, None]:
    rolled = True
    while rolled:
        known = group.known()
        reply = yield Ask(group.link, group.read())
        group.take(reply, known)
        rolled = reply.rolled


def _hold(case: Case, grant: Grant) -> Generator[Ask, Reply, Short | None]:
    """Hold in every store what was granted here; returns who is short if one has no room."""
    id, loop = secrets.token_hex(8), "" if case.loop is None else loop_name(case.loop.id)
    parts: list[Part] = []
    asked: Group | None = None
    try:
        for group in case.scope.lineage.shared:
            asked = group
            try:
                reply = yield Ask(
                    group.link, Hold(id, grant.need, _lines(case, grant, group), loop)
                )
            except StoreUnavailableError as error:
                asked = group if error.asked else None
                _go_on_alone(group, grant, case.scope.lineage.answering)
                parts.append(_unheld(case, group)._replace(outage=group.link.outages))
                continue
            short = _taken(group, reply, grant, case.loop)
            if short is not None:
                asked = None
                _undo(case, grant, Held(id, grant.need, loop, tuple(parts)), None)
                return short
            parts.append(_held(group, reply))
    except BaseException:
        _undo(case, grant, Held(id, grant.need, loop, tuple(parts)), asked)
        raise
    assert case.ticket is not None  # noqa: S101 -- a Grant was committed
    case.ticket.held = Held(id, grant.need, loop, tuple(parts))
    case.ticket.held.keep_leases(case.loop)
    return None


def _lines(case: Case, grant: Grant, group: Group) -> tuple[Line, ...]:
    answering = case.scope.lineage.answering
    reserves = dict(grant.reserves)
    return tuple(
        Line(
            case.address_of(account),
            scope.budget.held_limits if scope in answering else (),
            reserves.get(account, ZERO),
        )
        for scope, account in group.members
    )


def _taken(group: Group, reply: Reply, grant: Grant, loop: Loop | None) -> Short | None:
    """Take over the balances of an answer to a hold; returns who is short if it was not made."""
    if reply.rolled:
        group.take(reply)
        return Short(group.members[0][0], TURNS)
    made = reply.short is None
    used_up = loop.id if made and grant.final and loop is not None else None
    with STORE.lock:
        for (_, account), balance in zip(group.members, reply.balances, strict=True):
            account.confirm(balance, grant.need if made else ZERO, dropped=used_up)
    if reply.short is None:
        return None
    index, meter = reply.short
    return Short(group.members[index][0], meter, grant.need[meter])


def _held(group: Group, reply: Reply) -> Part:
    """What was held, and in which accounts: others here may know of newer ones already."""
    held_in = tuple((each.address, each.epoch) for each in reply.balances)
    return Part(group.link, tuple(account for _, account in group.members), held_in)


def _unheld(case: Case, group: Group) -> Part:
    """What was asked for, and may not have been held."""
    accounts = tuple(account for _, account in group.members)
    held_in = tuple((case.address_of(each), each.balance.epoch) for each in accounts)
    return Part(group.link, accounts, held_in)


def _go_on_alone(group: Group, grant: Grant, answering: tuple[Scope, ...]) -> None:
    """Count a call against the part that is allowed while the store is out of reach.

    Raises:
        StoreUnavailableError: If there is none, or it is used up.
    """
    if not group.may_go_on_alone(answering):
        raise  # noqa: PLE0704 -- called where it was caught
    allowed: list[SharedAccount] = []
    with STORE.lock:
        for scope, account in group.members:
            limits = scope.budget.held_limits if scope in answering else ()
            if not account.allow_offline(grant.need, limits):
                for each in allowed:
                    each.settle_offline(grant.need, ZERO)
                raise StoreUnavailableError(
                    group.link.store.url, "the part that is allowed without it is used up"
                )
            allowed.append(account)


def _undo(case: Case, grant: Grant, held: Held, asked: Group | None) -> None:
    """Forget a hold here, and wherever it was made or may have been made."""
    given_up = None if asked is None else _unheld(case, asked)
    case.undo(grant)
    loop = None if case.loop is None else case.loop.id
    held.release(loop, restores=True, now=False)
    if given_up is not None:
        held.give_up(given_up, loop)


def drop_reserves(loop: Hashable, accounts: Iterable[Account]) -> None:
    """Tell the stores that an agent loop keeps nothing back any more."""
    for account in accounts:
        if is_shared(account):
            name = loop_name(loop)
            account.link.leases.keep(name, {account.address: False})
            account.link.deliver(
                Drop(name, (account.address,)), partial(_dropped, account, loop), now=False
            )


def _dropped(account: SharedAccount, loop: Hashable, reply: Reply) -> None:
    with STORE.lock:
        account.confirm(reply.balances[0], dropped=loop)
        account.wake()
