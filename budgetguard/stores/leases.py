"""Leases: what this process holds in a store, renewed while its calls run."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from budgetguard.errors import StoreUnavailableError
from budgetguard.stores.protocol import Renew

if TYPE_CHECKING:
    from collections.abc import Mapping

    from budgetguard.stores.protocol import Address, Store

_MOST_FAILURES: Final = 2
"""After so many accounts that could not be reached the others are left for the next time."""

_log = logging.getLogger("budgetguard")


class Leases:
    """The holds, and the reserves of agent loops, that this process must renew."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._every_s = store.lease_s / 3
        self._next = time.monotonic() + self._every_s
        self._holds: dict[str, tuple[Address, ...]] = {}
        self._loops: dict[str, tuple[Address, ...]] = {}

    def hold(self, id: str, accounts: tuple[Address, ...]) -> None:
        """A hold was made, in these accounts too."""
        self._holds[id] = (*self._holds.get(id, ()), *accounts)

    def end(self, id: str) -> None:
        """A hold was settled or given back."""
        self._holds.pop(id, None)

    def keep(self, loop: str, kept: Mapping[Address, bool]) -> None:
        """A loop keeps a reserve in these accounts, or none there any more."""
        known = {each._replace(window="") for each in kept}  # of older windows nothing is renewed
        before = self._loops.get(loop, ())
        others = tuple(each for each in before if each._replace(window="") not in known)
        accounts = (*others, *(address for address, keeps in kept.items() if keeps))
        if accounts:
            self._loops[loop] = accounts
        else:
            self._loops.pop(loop, None)

    def due_in_s(self) -> float:
        """Seconds until leases should be renewed."""
        return max(0.0, self._next - time.monotonic())

    def do_due(self) -> None:
        """Renew, if it is time; a store that is out of reach is asked again next time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every_s
        holds, loops = _by_account(self._holds), _by_account(self._loops)
        failures = 0
        for address in holds.keys() | loops.keys():
            try:
                self._store.run(Renew(address, tuple(holds[address]), tuple(loops[address])))
            except StoreUnavailableError as error:
                _log.warning("leases could not be renewed: %s", error.why)
                failures += 1
                if failures == _MOST_FAILURES:
                    return


def _by_account(kept: dict[str, tuple[Address, ...]]) -> defaultdict[Address, list[str]]:
    found: defaultdict[Address, list[str]] = defaultdict(list)
    for name, accounts in list(kept.items()):
        for address in accounts:
            found[address].append(name)
    return found
