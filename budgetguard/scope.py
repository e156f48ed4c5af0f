"""Scope: the live account of one task, a node of a tree that follows the code's own nesting.

Nesting can only tighten: a call is admitted by every scope of its lineage, and billed to every
one. A scope is used once; closing it refuses new calls, and lets those in flight settle.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack

from budgetguard import admitting, events
from budgetguard.current import (
    FORKS,
    current_scope,
    reset_current,
    runs_an_event_loop,
    set_current,
)
from budgetguard.difficulty import NOTHING_TO_ASK, Estimation
from budgetguard.ending import ending_of
from budgetguard.errors import ScopeClosed
from budgetguard.extension import Amounts, extension_of, raise_limits
from budgetguard.lineage import lineage_of
from budgetguard.loops import Loop, Loops
from budgetguard.reading import Reading
from budgetguard.spend import USD, ZERO, Limits, Vector, plus, usd
from budgetguard.standing import Standing
from budgetguard.stores.accounts import account_of
from budgetguard.stores.memory import STORE
from budgetguard.stores.shares import claim_share, give_back_share

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable
    from contextvars import Token

    from budgetguard.budget import Budget
    from budgetguard.call import Call
    from budgetguard.counting import Conversation
    from budgetguard.plan import End
    from budgetguard.stores.memory import Account
    from budgetguard.stores.shares import Share
    from budgetguard.ticket import Ticket


class Scope(Reading):
    """The account of one task. Made by `Budget.open()`; use it with `with` or `async with`."""

    __slots__ = (
        "__weakref__", "_closed_at", "_opened", "_own", "_share", "_token", "account", "budget",
        "conversation", "deadline", "end", "estimation", "has_id", "id", "lineage", "loops",
        "more_seconds", "owes_last_call", "parent", "path", "process", "standing",
    )  # fmt: skip

    @classmethod
    def below_current(
        cls, budget: Budget, *, id: str | None, prompt: str | None, shield: bool
    ) -> Self:
        """A child of the scope that is open here."""
        return cls(budget, parent=current_scope(), id=id, prompt=prompt, shield=shield)

    def __init__(
        self,
        budget: Budget,
        *,
        parent: Scope | None = None,
        id: str | None = None,
        prompt: str | None = None,
        shield: bool = False,
    ) -> None:
        self.budget = budget
        """The specification."""
        self.parent = parent
        """The scope around this one."""
        self.has_id = id is not None or budget.window is not None or budget.store is not None
        self.id = secrets.token_hex(8) if id is None else id
        """Identifies the account in events and errors."""
        self.path = budget.name if parent is None else f"{parent.path}/{budget.name}"
        """Names of the budgets from the root to here, joined by `/`."""
        self.account = account_of(budget, id, self.id)
        self.standing = Standing()
        self.loops = Loops() if parent is None else parent.loops
        self.conversation: Conversation[Any] | None = None
        self.estimation = (
            NOTHING_TO_ASK
            if budget.estimator is None
            else Estimation(budget.estimator, prompt, budget.name)
        )
        self._own = ZERO
        self._opened = time.monotonic()
        self._closed_at: float | None = None
        self.process = FORKS[0]
        """Number of forks between the first process and the one it was opened in."""
        self._token: Token[Scope | None] | None = None
        self.deadline = self._opened + (budget.seconds or float("inf"))
        """Monotonic time after which no call is admitted."""
        self.more_seconds = 0.0
        """By how much the limit on seconds was extended."""
        if shield and budget.limits == Limits():
            msg = f"budget {budget.name!r} is shielded, so it needs a limit of its own"
            raise ValueError(msg)
        self.lineage = lineage_of(self, shield=shield)
        """Who pays for its calls, and who admits them."""
        self._share: Share | None = None
        if budget.share is not None and parent is not None:
            self._share = claim_share(
                parent.account, parent.held_limits, self.account, budget.share
            )
        ending = ending_of(budget)
        self.owes_last_call = ending.owes_last_call
        self.end: End = ending.end
        if events.listening():
            events.emit(events.Opened(path=self.path, scope_id=self.id, budget=budget.name))

    def admit(self, call: Call) -> Ticket:
        """Admit a model call before it is made, waiting in this thread where it must.

        Raises:
            BudgetExceeded: If the call is refused; `BudgetBusy` if waiting did not help or would
                block a running event loop.
            UnpricedModelError: If a usd limit answers and the model has no price.
            StoreUnavailableError: If a store that keeps an account is out of reach.
            ScopeClosed: If the scope is closed.
        """
        return admitting.admit(self, call)

    async def aadmit(self, call: Call) -> Ticket:
        """Admit a model call before it is made, waiting in this task where it must.

        Raises:
            BudgetExceeded: If the call is refused; `BudgetBusy` if waiting did not help.
            UnpricedModelError: If a usd limit answers and the model has no price.
            StoreUnavailableError: If a store that keeps an account is out of reach.
            ScopeClosed: If the scope is closed.
        """
        return await admitting.aadmit(self, call)

    def admit_now(self, call: Call, why: str) -> Ticket:
        """Admit a model call as `admit` does, but refuse it where it would have to wait.

        Args:
            call: What is known of it.
            why: Why it cannot wait, in words.
        """
        return admitting.admit_now(self, call, why)

    def extend(self, **amounts: Unpack[Amounts]) -> None:
        """Raise limits, and take calls again if some were refused: `extend(turns=5, usd="0.50")`.

        With an id or a window for everybody who shares the account, until its window ends;
        `seconds` only for this handle.

        Raises:
            ValueError: For an amount that is not positive, or a meter this budget does not limit.
            PermissionError: Inside a tool: a model cannot raise its own limit.
            StoreUnavailableError: If the store that keeps the account is out of reach; it may have
                raised them all the same, so `refresh()` and look before trying again.
        """
        raise_limits(self, extension_of(self, amounts))

    async def aextend(self, **amounts: Unpack[Amounts]) -> None:
        """Do what `extend` does, without blocking the event loop while a store is asked."""
        extension = extension_of(self, amounts)
        await asyncio.to_thread(raise_limits, self, extension)

    def check_open(self) -> None:
        """Raise `ScopeClosed` if this scope, or one it belongs to, takes no calls any more."""
        forks = FORKS[0]
        for each in self.lineage.billed:
            if each.standing.closed or each.process != forks:
                raise ScopeClosed(each.closed_because())
        if self.standing.closed:
            raise ScopeClosed(self.closed_because())

    def closed_because(self) -> str:
        """Why it takes no calls any more, in words."""
        if self.standing.closed:
            return f"budget {self.path!r} is closed"
        return f"budget {self.path!r} was opened before a fork: open it in this process"

    def holder(self, path: tuple[Hashable, ...]) -> Loop | Self:
        """What keeps the conversation of an agent loop, or of the calls outside any loop."""
        if not path:
            return self
        with STORE.lock:
            return self.loops.at(path, self)

    def end_loop(self, id: Hashable) -> None:
        """Say that an agent loop has ended, so that nothing is kept back for it any more."""
        if id not in self.loops:
            return
        if STORE.lock.is_mine():
            STORE.lock.postpone(partial(self.end_loop, id))
            return
        with STORE.lock:
            kept_in = self.loops.forget(id)
        self.tell_stores(id, kept_in)

    def tell_stores(self, loop: Hashable, kept_in: list[Account]) -> None:
        """Say that an agent loop keeps nothing back any more, where a store keeps the account."""
        if any(each.shared for each in kept_in):
            from budgetguard.fleet import drop_reserves  # noqa: PLC0415 -- only with a store

            drop_reserves(loop, kept_in)

    def take_back_last_call(self, loop: Loop | None) -> None:
        """Undo the grant of a last call that was never sent; call under the store's lock."""
        if loop is None:
            return
        loop.take_back()
        if self.standing.latched_by is loop:
            self.standing.unlatch()
            self.standing.finished = False

    def add_own(self, used: Vector) -> None:
        """Note what a call of this scope used; call under the store's lock."""
        if self.lineage.billed:
            self._own = plus(self._own, used)

    def close(self, *, error: bool = False) -> None:
        """Refuse new calls; those in flight still settle. Closing twice changes nothing."""
        if STORE.lock.is_mine():
            STORE.lock.postpone(partial(self.close, error=error))
            return
        with STORE.lock:
            if self.standing.closed:
                return
            self.standing.closed = True
            self.standing.error = self.standing.error or error
            self._closed_at = time.monotonic()
            loops = [(each.id, self.loops.forget(each.id)) for each in self.loops.of(self)]
            if self._share is not None and self.parent is not None:
                give_back_share(self.parent.account, self._share)
            for account in self.lineage.accounts:
                account.wake()
        for id, kept_in in loops:
            self.tell_stores(id, kept_in)
        if events.listening():
            events.emit(
                events.Closed(
                    path=self.path,
                    scope_id=self.id,
                    outcome=self.standing.outcome(),
                    turns=self.spent.turns,
                    tokens=self.spent.tokens,
                    usd=usd(self.account.settled[USD]),
                )
            )

    @contextlib.contextmanager
    def activate(self) -> Generator[Self]:
        """Make this the open scope in a thread that did not inherit it."""
        token = set_current(self)
        try:
            yield self
        finally:
            reset_current(token)

    def __enter__(self) -> Self:
        self.check_open()
        if self._token is not None:
            msg = (
                f"budget {self.path!r} is entered already: use scope.activate() for another thread"
            )
            raise RuntimeError(msg)
        if self.lineage.shared and not runs_an_event_loop():
            self.look_first()
        self._token = set_current(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self._token is not None:
            reset_current(self._token)
            self._token = None
        self.close(error=kind is not None and self.standing.exceeded is None)

    async def __aenter__(self) -> Self:
        if self.lineage.shared:
            await asyncio.to_thread(self.look_first)
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, trace: object
    ) -> None:
        self.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<Scope {self.path!r} {self.outcome or 'open'}>"
