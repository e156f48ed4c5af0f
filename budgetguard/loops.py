"""Loop: one agent loop under a budget, and the reserve it keeps for its last call.

The reserve belongs to the outermost loop of an account: an inner loop (a sub-agent in a tool)
keeps none, so that the outer one can still answer. A loop gets one last call in its life.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable

    from budgetguard.counting import Conversation
    from budgetguard.scope import Scope
    from budgetguard.spend import Vector
    from budgetguard.stores.memory import Account


class Loop:
    """What is known of an agent loop; everything here changes under the store's lock."""

    __slots__ = (
        "_kept_in", "_used", "conversation", "enclosing", "granted",
        "growth", "id", "largest_output", "last_input", "scope",
    )  # fmt: skip

    def __init__(self, path: tuple[Hashable, ...], scope: Scope) -> None:
        self.id = path[-1]
        self.enclosing = path[:-1]
        self.scope = scope
        self.growth = 0
        """Largest growth of the input between two calls so far, tokens."""
        self.last_input = 0
        self.largest_output = 0
        self.granted = False
        """Whether its last call was granted."""
        self.conversation: Conversation[Any] | None = None
        self._kept_in: list[Account] = []
        self._used: list[tuple[Account, Vector]] = []

    def is_outermost(self, account: Account) -> bool:
        """Whether no enclosing loop draws on that account, so that the reserve is this one's."""
        return not any(loop in account.reserves for loop in self.enclosing)

    def keeps_in(self, account: Account) -> bool:
        """Whether a last call of this loop is reserved there."""
        return self.id in account.reserves

    def keep(self, account: Account, reserve: Vector) -> None:
        """Move the reserve of this loop to what its last call would need now."""
        if account not in self._kept_in:
            self._kept_in.append(account)
        account.reserves[self.id] = reserve

    def keep_as_before(self, account: Account, reserve: Vector | None) -> None:
        """Undo `keep`; `None`: nothing was kept there."""
        if reserve is not None:
            account.reserves[self.id] = reserve
            return
        account.reserves.pop(self.id, None)
        if account in self._kept_in:
            self._kept_in.remove(account)

    def grant(self) -> None:
        """Its last call is made now, from what was kept back for it."""
        kept_in = [each for each in self._kept_in if self.keeps_in(each)]  # not in a new window
        self._used = [(account, account.reserves[self.id]) for account in kept_in]
        self.granted = True
        self.drop()

    def take_back(self) -> None:
        """Its last call was never sent: it is owed again, and kept back for."""
        self.granted = False
        for account, reserve in self._used:
            self.keep(account, reserve)
        self._used = []

    def drop(self) -> list[Account]:
        """Keep nothing back any more; returns the accounts where something was kept."""
        kept_in, self._kept_in = self._kept_in, []
        for account in kept_in:
            account.drop(self.id)
            account.wake()
        return kept_in

    def learn(self, input_tokens: int, output_tokens: int) -> None:
        """Note what a settled call used."""
        if self.last_input:
            self.growth = max(self.growth, input_tokens - self.last_input)
        self.last_input = input_tokens
        self.largest_output = max(self.largest_output, output_tokens)


class Loops:
    """The agent loops of a tree of scopes, by id; use it under the store's lock."""

    __slots__ = ("_loops",)

    def __init__(self) -> None:
        self._loops: dict[Hashable, Loop] = {}

    def at(self, path: tuple[Hashable, ...], scope: Scope) -> Loop:
        """The loop of that path, new if it is not known; it belongs to `scope` then."""
        loop = self._loops.get(path[-1])
        if loop is None:
            loop = self._loops[path[-1]] = Loop(path, scope)
        return loop

    def forget(self, id: Hashable) -> list[Account]:
        """Give back what a loop kept for its last call; returns the accounts it was kept in."""
        loop = self._loops.pop(id, None)
        return [] if loop is None else loop.drop()

    def of(self, scope: Scope) -> list[Loop]:
        """The loops of one scope."""
        return [each for each in self._loops.values() if each.scope is scope]

    def __contains__(self, id: object) -> bool:
        return id in self._loops
