"""What each command does to the accounts of a SQLite store; the contract is in protocol.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from budgetguard.spend import ZERO, Vector, minus, plus
from budgetguard.stores.protocol import (
    Drop,
    Extend,
    Hold,
    Read,
    Release,
    Renew,
    Reply,
    Settle,
)
from budgetguard.stores.windows import window_like

if TYPE_CHECKING:
    from budgetguard.stores.protocol import Address, Command, Line
    from budgetguard.stores.sqlite.ledger import Ledger


def answer(ledger: Ledger, command: Command, now: float) -> Reply:
    """Do a command at a Unix time, inside the transaction of the ledger."""
    match command:
        case Hold():
            reply = _hold(ledger, command, now)
        case Settle():
            reply = _settle(ledger, command)
        case Release():
            reply = _release(ledger, command)
        case Drop():
            reply = _drop(ledger, command)
        case Renew():
            reply = _renew(ledger, command)
        case Extend():
            reply = _extend(ledger, command)
        case Read():
            reply = _read(ledger, command, now)
        case _:
            assert_never(command)
    return reply


def _hold(ledger: Ledger, command: Hold, now: float) -> Reply:
    named = tuple(line.address for line in command.lines)
    current = _current(named, now)
    if current != named:
        return Reply(ledger.balances(current), rolled=True)
    lines = [each for each in enumerate(command.lines) if not _is_known(ledger, each[1], command)]
    for index, line in lines:
        meter = _short(ledger, line, command)
        if meter is not None:
            return Reply(ledger.balances(named), (index, meter))
    for _, line in lines:
        _grant(ledger, line, command)
    return Reply(ledger.balances(named))


def _read(ledger: Ledger, command: Read, now: float) -> Reply:
    current = _current(command.accounts, now)
    return Reply(ledger.balances(current), rolled=current != command.accounts)


def _settle(ledger: Ledger, command: Settle) -> Reply:
    late, added = False, False
    for address, epoch in command.accounts:
        found = ledger.find(address)
        is_lost = found is None or found.epoch != epoch
        entry = found or ledger.make(address)
        known, _ = ledger.call(entry, command.id)
        if known in {"hold", "expired"} or (not known and (command.unheld or is_lost)):
            ledger.settle(entry, command.id, command.used)
            if command.unheld or is_lost:
                ledger.remember_settled(entry, command.id)
            late |= known == "expired"
            added = True
        if command.ended_loop:
            ledger.reserve(entry, command.ended_loop, ZERO)
    balances = ledger.balances(address for address, _ in command.accounts)
    return Reply(balances, late=late, repeated=not added)


def _release(ledger: Ledger, command: Release) -> Reply:
    is_there = False
    for index, address in enumerate(command.accounts):
        entry = ledger.find(address)
        known, need = ledger.call(entry, command.id) if entry else ("", ZERO)
        if entry is None or known != "hold":
            continue
        ledger.give_back(entry, command.id, need)
        entry.released += 1
        is_there = True
        if command.loop and command.reserves:
            ledger.reserve(entry, command.loop, command.reserves[index])
    return Reply(ledger.balances(command.accounts), repeated=not is_there)


def _drop(ledger: Ledger, command: Drop) -> Reply:
    for address in command.accounts:
        entry = ledger.find(address)
        if entry is not None:
            ledger.reserve(entry, command.loop, ZERO)
    return Reply(ledger.balances(command.accounts))


def _renew(ledger: Ledger, command: Renew) -> Reply:
    entry = ledger.find(command.address)
    if entry is not None:
        ledger.renew(entry, "hold", command.holds)
        ledger.renew(entry, "reserve", command.loops)
    return Reply(ledger.balances((command.address,)))


def _extend(ledger: Ledger, command: Extend) -> Reply:
    ledger.extend(ledger.make(command.address), command.id, command.extra)
    return Reply(ledger.balances((command.address,)))


def _current(named: tuple[Address, ...], now: float) -> tuple[Address, ...]:
    """The same accounts, each with the window that is current."""
    return tuple(
        each._replace(window=window_like(each.window, now)) if each.window else each
        for each in named
    )


def _is_known(ledger: Ledger, line: Line, command: Hold) -> bool:
    """Whether the hold is a retry there; one whose lease ran out must be made anew."""
    entry = ledger.find(line.address)
    return entry is not None and ledger.call(entry, command.id)[0] in {"hold", "settled"}


def _short(ledger: Ledger, line: Line, command: Hold) -> int | None:
    """The first meter on which a line does not fit; `None` if it does."""
    entry = ledger.find(line.address)
    taken, extra = plus(command.need, _reserve(line, command)), ZERO
    if entry is not None:
        taken = plus(taken, plus(plus(entry.settled, entry.held), entry.reserved))
        extra = entry.extra
        if command.loop:
            taken = minus(taken, ledger.reserved(entry, command.loop))
    return next((meter for meter, most in line.limits if taken[meter] > most + extra[meter]), None)


def _grant(ledger: Ledger, line: Line, command: Hold) -> None:
    entry = ledger.make(line.address)
    ledger.hold(entry, command.id, command.need)
    if command.loop:
        ledger.reserve(entry, command.loop, line.reserve)


def _reserve(line: Line, command: Hold) -> Vector:
    """What the line keeps back: nothing outside of a loop."""
    return line.reserve if command.loop else ZERO
