"""The command line: `budgetguard accounts`, what a store keeps."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from budgetguard._version import __version__
from budgetguard.errors import StoreUnavailableError
from budgetguard.spend import TOKENS, TURNS, USD, usd
from budgetguard.stores import open_store
from budgetguard.stores.opening import check_there_is

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgetguard.stores.protocol import Balance

_COLUMNS = ("tenant", "budget", "id", "window", "turns", "tokens", "usd", "held tokens", "held usd")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 1 if the store is out of reach."""
    options = _parser().parse_args(arguments)
    try:
        check_there_is(options.store)
        store = open_store(options.store)
        balances = store.accounts(options.tenant)
    except StoreUnavailableError as error:
        print(f"budgetguard: {error.store} is out of reach: {error.why}", file=sys.stderr)  # noqa: T201
        return 1
    except (ValueError, ImportError) as error:
        print(f"budgetguard: {error}", file=sys.stderr)  # noqa: T201 -- a command line
        return 1
    store.close()
    for line in _table(sorted(balances)):
        print(line)  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="budgetguard", description="Budgets for AI agents.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True)
    accounts = commands.add_parser("accounts", help="what is spent and held, by whom")
    accounts.add_argument("store", help="sqlite:///file or redis://host")
    accounts.add_argument("--tenant", help="only the accounts of this tenant")
    return parser


def _table(balances: Sequence[Balance]) -> list[str]:
    rows = [_COLUMNS, *(_row(each) for each in balances)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(balance: Balance) -> tuple[str, ...]:
    settled, held = balance.settled, balance.held
    return (
        _shown(balance.address.tenant or "-"),
        _shown(balance.address.budget),
        _shown(balance.address.id or "-"),
        balance.address.window or "-",
        str(settled[TURNS]),
        str(settled[TOKENS]),
        str(usd(settled[USD])),
        str(held[TOKENS]),
        str(usd(held[USD])),
    )


def _shown(name: str) -> str:
    """A name on one line."""
    return name if name.isprintable() else repr(name)


if __name__ == "__main__":
    sys.exit(main())
