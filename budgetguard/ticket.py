"""Ticket: a call that was admitted, and what is held for it until it settles or is released.

Invariant: a ticket moves the ledger once. Settling or releasing it again changes nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from budgetguard import events
from budgetguard.current import runs_an_event_loop
from budgetguard.plan import EMPTY
from budgetguard.spend import INPUT, OUTPUT, TOKENS, ZERO, Usage, Vector, usd
from budgetguard.stores.memory import STORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgetguard.call import Call
    from budgetguard.forecast import Outputs
    from budgetguard.loops import Loop
    from budgetguard.plan import Plan
    from budgetguard.pricing import Rates
    from budgetguard.scope import Scope
    from budgetguard.stores.held import Held
    from budgetguard.stores.memory import Account


class Ticket:
    """The right to make one model call, as its Plan says."""

    __slots__ = (
        "_loop", "_number", "_open", "_outputs", "_rates", "_windows", "accounts", "call",
        "held", "model", "need", "owner", "plan", "scope",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913, PLR0917 -- everything that was decided; by place, for speed
        self,
        number: int,
        scope: Scope,
        call: Call,
        plan: Plan,
        model: str,
        need: Vector,
        rates: Rates | None,
        loop: Loop | None,
        accounts: tuple[Account, ...],
        owner: object,
        outputs: Outputs | None = None,
    ) -> None:
        self._number = number
        self.scope = scope
        self.call = call
        self.plan = plan
        """What the call may do; its output cap is what is held."""
        self.model = model
        """The model to call: the caller's, or a rung of the ladder."""
        self.need = need
        self.accounts = accounts
        self.owner = owner
        self._rates = rates
        self._loop = loop
        self._outputs = outputs
        self._open = True
        self._windows = tuple(each.window for each in accounts) if scope.lineage.renewed else None
        self.held: Held | None = None
        """What stores hold for it."""

    @classmethod
    def free(cls, scope: Scope, call: Call) -> Ticket:
        """A ticket that holds nothing and settles nothing: guarding is switched off."""
        ticket = cls(0, scope, call, EMPTY, call.model, ZERO, None, None, (), None)
        ticket._open = False
        return ticket

    @property
    def call_id(self) -> str:
        """Identifies the call in events."""
        return f"{self.scope.id}-{self._number}"

    @property
    def is_open(self) -> bool:
        """Whether the call is still in flight."""
        return self._open

    def settle(self, usage: Usage, *, ends_loop: bool = False) -> None:
        """Charge what the call used, and give the rest of the hold back.

        An error answer of the provider (4xx, 5xx) is settled with an empty `Usage`: the turn
        counts, no tokens do.

        Args:
            usage: What the provider billed.
            ends_loop: Whether the answer asks for no tool, so that its agent loop is over.

        Raises:
            ValueError: If a count is negative or no whole number; nothing is settled then.
        """
        if STORE.lock.is_mine():
            STORE.lock.postpone(partial(self.settle, usage, ends_loop=ends_loop))
            return
        _check(usage)
        nano = self._charge(usage)
        used = (
            usage.input_tokens + usage.output_tokens, usage.input_tokens,
            usage.output_tokens, usage.reasoning_tokens, 1, nano,
        )  # fmt: skip
        kept_in: list[Account] = []
        with STORE.lock:
            if not self._open:
                return
            self._open = False
            STORE.in_flight.discard(self)
            for account in self._billed():
                account.settle(self.need, used)
                if account.waiters:
                    account.wake()
            self.scope.add_own(used)
            self._teach(usage)
            if ends_loop and self._loop is not None:
                kept_in = self.scope.loops.forget(self._loop.id)
        if self.held is not None:
            ended = self._loop.id if ends_loop and self._loop is not None else None
            self.held.settle(used, ended=ended, now=not runs_an_event_loop())
        if kept_in and self._loop is not None:  # also where another scope made its calls
            others = [each for each in kept_in if each not in self.accounts]
            self.scope.tell_stores(self._loop.id, others)
        if events.listening():
            self._tell_settled(usage, nano)

    def _teach(self, usage: Usage) -> None:
        """Let the forecast of such calls, and the agent loop, learn from the bill."""
        if self._outputs is not None:
            self._outputs.in_flight -= 1
            if usage.output_tokens and not usage.estimated:
                cap, truncated = self.plan.max_output_tokens, usage.truncated
                self._outputs.observe(
                    usage.output_tokens, usage.reasoning_tokens, truncated=truncated, cap=cap
                )
        if self._loop is not None:
            self._loop.learn(usage.input_tokens, usage.output_tokens)

    def settle_unanswered(self, delivered_tokens: int = 0, *, hidden: bool = True) -> None:
        """Charge an estimate for a call that was sent and whose bill never came.

        The input estimate, everything delivered, and, where output may have been produced out of
        sight (hidden thinking, or an answer that never arrived), half of what was held for
        output; never more than the hold. Flagged `estimated`.

        Args:
            delivered_tokens: Tokens of the answer that arrived before it broke off.
            hidden: Whether the provider may have produced output that nobody saw.
        """
        held_output = self.need[OUTPUT]
        output = delivered_tokens + (held_output // 2 if hidden else 0)
        self.settle(
            Usage(
                input_tokens=self.need[INPUT],
                output_tokens=min(output, held_output),
                estimated=True,
            )
        )

    def release(self) -> None:
        """Give everything back, the turn included: nothing was sent."""
        if STORE.lock.is_mine():
            STORE.lock.postpone(self.release)
            return
        with STORE.lock:
            if not self._open:
                return
            self._open = False
            STORE.in_flight.discard(self)
            if self._outputs is not None:
                self._outputs.in_flight -= 1
            for account in self._billed():
                account.release(self.need)
                if account.waiters:
                    account.wake()
            if self.plan.final:
                self.scope.take_back_last_call(self._loop)
        if self.held is not None:
            loop = None if self._loop is None else self._loop.id
            self.held.release(loop, restores=self.plan.final, now=not runs_an_event_loop())
        if events.listening():
            scope = self.scope
            events.emit(
                events.Released(
                    path=scope.path, scope_id=scope.id, call_id=self.call_id, model=self.model
                )
            )

    def forget(self) -> None:
        """Undo the admission: it did not come about; call under the store's lock."""
        self._open = False
        STORE.in_flight.discard(self)
        if self._outputs is not None:
            self._outputs.in_flight -= 1
        for account in self._billed():
            account.unhold(self.need)
            account.wake()

    def window_of(self, account: Account) -> str:
        """The window of an account that it was admitted in."""
        if self._windows is None:
            return account.window
        return self._windows[self.accounts.index(account)]

    async def delivered(self) -> None:
        """Wait until the stores know how it ended, or are known to be out of reach.

        Only for code on an event loop; elsewhere settling waits by itself.
        """
        if self.held is not None:
            await self.held.delivered()

    def _billed(self) -> Sequence[Account]:
        """The accounts that still count the window it was admitted in."""
        if self._windows is None:
            return self.accounts
        windows = zip(self.accounts, self._windows, strict=True)
        return [account for account, window in windows if account.window == window]

    def _charge(self, usage: Usage) -> int:
        if self._rates is None or not usage.tokens:
            return 0
        return self._rates.charge(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
        )

    def _tell_settled(self, usage: Usage, nano: int) -> None:
        scope, rates = self.scope, self._rates
        events.emit(
            events.Settled(
                path=scope.path,
                scope_id=scope.id,
                call_id=self.call_id,
                model=self.model,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
                usd=usd(nano),
                price_source=None if rates is None else rates.source,
                price_checked=None if rates is None else rates.checked,
                estimated=usage.estimated,
                truncated=usage.truncated,
                overshoot_tokens=max(0, usage.tokens - self.need[TOKENS]),
            )
        )


def _check(usage: Usage) -> None:
    for count in usage[:6]:
        if type(count) is not int or count < 0:
            msg = f"a usage has whole numbers of tokens, 0 or more, not {count!r}: {usage}"
            raise ValueError(msg)
