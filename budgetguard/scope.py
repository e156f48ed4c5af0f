"""Scope: the live account of one task, a node of a tree that follows the code's own nesting.

Nesting can only tighten: a call is admitted by every scope of its lineage, and billed to every
one. A scope is used once; closing it refuses new calls, and lets those in flight settle.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from budgetguard import events, notices
from budgetguard.call import Call
from budgetguard.difficulty import UNKNOWN, Difficulty, Task, ask, distrust, understand
from budgetguard.errors import ScopeClosed
from budgetguard.gate import attempt
from budgetguard.loops import Loop
from budgetguard.mode import forced_mode
from budgetguard.plan import End
from budgetguard.policy import AnyPolicy, State, remaining
from budgetguard.rules import DEFAULT_POLICY, Observe
from budgetguard.spend import (
    METERS,
    OUTPUT,
    REASONING,
    TOKENS,
    USD,
    ZERO,
    Limits,
    Spend,
    Vector,
    plus,
    usd,
)
from budgetguard.standing import Outcome, Standing
from budgetguard.stores.memory import STORE
from budgetguard.ticket import Ticket
from budgetguard.waiting import TaskWaiter, ThreadWaiter, Waiter, admission, would_block_the_loop

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextvars import Token

    from budgetguard.admission import Short
    from budgetguard.budget import Budget
    from budgetguard.counting import Conversation

_log = logging.getLogger("budgetguard")
_current: ContextVar[Scope | None] = ContextVar("budgetguard_scope", default=None)
_process = [0]  # number of forks between the first process and this one


def _count_fork() -> None:
    _process[0] += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def current_scope() -> Scope | None:
    """The scope that is open here: in this thread, task or tool; `None` if none is."""
    return _current.get()


class Counts(NamedTuple):
    """What became of the calls of a scope."""

    admitted: int
    settled: int
    released: int

    @property
    def in_flight(self) -> int:
        """Calls that are neither settled nor released."""
        return self.admitted - self.settled - self.released


class Scope:
    """The account of one task. Made by `Budget.open()`; use it with `with` or `async with`."""

    def __init__(  # noqa: PLR0913 -- the four choices of Budget.open, and the place in the tree
        self,
        budget: Budget,
        *,
        parent: Scope | None = None,
        id: str | None = None,  # noqa: A002 -- the word users know
        prompt: str | None = None,
        shield: bool = False,
    ) -> None:
        self.budget = budget
        """The specification."""
        self.parent = parent
        """The scope around this one."""
        self.has_id = id is not None
        self.id = id or secrets.token_hex(8)
        """Identifies the account in events and errors."""
        self.path = budget.name if parent is None else f"{parent.path}/{budget.name}"
        """Names of the budgets from the root to here, joined by `/`."""
        self.account = STORE.account(budget.name, id)
        self.standing = Standing()
        self.loops: dict[str, Loop] = {} if parent is None else parent.loops
        self.conversation: Conversation[Any] | None = None
        self._prompt = prompt
        self._difficulty: Difficulty | None = None if budget.estimator else UNKNOWN
        self._own = ZERO
        self._opened = time.monotonic()
        self._closed_at: float | None = None
        self._process = _process[0]
        self._token: Token[Scope | None] | None = None
        self.deadline = self._opened + (budget.seconds or float("inf"))
        """Monotonic time after which no call is admitted."""
        self._take_place(parent, shield=shield)
        self._take_policy(budget.policy)
        if events.listening():
            events.emit(events.Opened(path=self.path, scope_id=self.id, budget=budget.name))

    def _take_place(self, parent: Scope | None, *, shield: bool) -> None:
        """Find who is billed for calls of this scope, and who answers them."""
        mode = forced_mode()
        if shield and self.budget.limits == Limits():
            msg = f"budget {self.budget.name!r} is shielded, so it needs a limit of its own"
            raise ValueError(msg)
        above = () if parent is None else parent.billed
        known = any(each.account is self.account for each in above)
        self.billed: tuple[Scope, ...] = above if known else (*above, self)
        """The scopes that pay for its calls, root first."""
        self.accounts = tuple(each.account for each in self.billed)
        answering = () if parent is None else parent.answering
        observers = () if parent is None else parent.observers
        if shield:
            answering = tuple(each for each in answering if each.has_id)
            observers = ()
        observing = mode == "observe" or (self.budget.observing and mode != "enforce")
        own = () if known else (self,)
        self.answering: tuple[Scope, ...] = answering if observing else (*answering, *own)
        """The scopes that admit its calls, root first."""
        self.observers: tuple[Scope, ...] = (*observers, *own) if observing else observers
        limited = {meter for each in self.answering for meter, _ in each.budget.held_limits}
        self.sends_cap = bool(limited & {TOKENS, OUTPUT, REASONING, USD})
        """Whether some limit needs the output of a call to be capped."""

    def _take_policy(self, policy: AnyPolicy) -> None:
        """Ask the policy once, with everything spent, how this budget ends."""
        self.policy = policy.inner if isinstance(policy, Observe) else policy
        self.lowers_once = self.policy == DEFAULT_POLICY
        """Whether the effort is lowered at most once after the first call (the default policy)."""
        last = self.policy(_exhausted(self.budget))
        self.owes_last_call = last.final
        """Whether an agent loop is owed one last call before the end."""
        self.end: End = last.end or "fail"
        """What comes after it."""

    @property
    def spent(self) -> Spend:
        """What was settled here and below; with an id, by every handle of the account."""
        return Spend.of(self.account.settled, self.elapsed())

    @property
    def held(self) -> Spend:
        """What calls in flight hold."""
        return Spend.of(self.account.held)

    @property
    def overshoot(self) -> Spend:
        """What providers billed beyond what was held."""
        return Spend.of(self.account.overshoot)

    @property
    def counts(self) -> Counts:
        """Calls admitted, settled and released here and below; the rest is in flight."""
        account = self.account
        return Counts(account.admitted, account.settlements, account.released)

    @property
    def own(self) -> Spend:
        """What was settled by calls made directly in this scope, not in a child."""
        return Spend.of(self._own)

    @property
    def remaining(self) -> Limits:
        """Limit minus settled, the least of the lineage that answers; `None`: no limit."""
        left = [remaining(each.budget.limits, each.spent) for each in self.answering]
        least = {
            name: min(amounts)
            for name in METERS
            if (amounts := [a for each in left if (a := getattr(each, name)) is not None])
        }
        return Limits(**least)

    @property
    def outcome(self) -> Outcome | None:
        """How the task went; `None` while the scope is open."""
        return self.standing.outcome() if self.standing.closed else None

    @property
    def exceeded(self) -> Exception | None:
        """The first `BudgetExceeded` of this task, even if somebody swallowed it."""
        return self.standing.exceeded

    @property
    def difficulty(self) -> Difficulty:
        """What is known of the task's difficulty."""
        return self._difficulty or UNKNOWN

    def elapsed(self) -> float:
        """Seconds from the opening to now, or to the closing."""
        return (self._closed_at or time.monotonic()) - self._opened

    def admit(self, call: Call) -> Ticket:
        """Admit a model call before it is made, waiting in this thread where it must.

        Raises:
            BudgetExceeded: If the call is refused; `BudgetBusy` if waiting did not help or would
                block a running event loop.
            UnpricedModelError: If a usd limit answers and the model has no price.
            ScopeClosed: If the scope is closed.
        """
        for each in self.answering:
            if each._difficulty is None:
                each._estimate()
        verdict = attempt(self, call, threading.get_ident())
        if isinstance(verdict, Ticket):
            return verdict
        if would_block_the_loop():
            raise self.busy(
                verdict, "waiting would block the event loop of this thread: use ainvoke"
            )
        waiter = ThreadWaiter()
        return waiter.run(self._steps(call, waiter))

    async def aadmit(self, call: Call) -> Ticket:
        """Admit a model call before it is made, waiting in this task where it must.

        Raises:
            BudgetExceeded: If the call is refused; `BudgetBusy` if waiting did not help.
            UnpricedModelError: If a usd limit answers and the model has no price.
            ScopeClosed: If the scope is closed.
        """
        for each in self.answering:
            if each._difficulty is None:
                await each._aestimate()
        waiter = TaskWaiter()
        verdict = attempt(self, call, waiter.owner)
        if isinstance(verdict, Ticket):
            return verdict
        return await waiter.run(self._steps(call, waiter))

    def _steps(self, call: Call, waiter: Waiter) -> Generator[float, None, Ticket]:
        return admission(
            lambda waiting: attempt(self, call, waiting.owner, waiting),
            waiter,
            patience_s=min((each.budget.patience for each in self.answering), default=0.0),
            until=min((each.deadline for each in self.answering), default=float("inf")),
            busy=self.busy,
        )

    def busy(self, short: Short, reason: str) -> Exception:
        """The error for a call that cannot wait for the room it lacks."""
        return notices.busy(self, short, reason)

    def check_open(self) -> None:
        """Raise `ScopeClosed` if this scope, or one it belongs to, takes no calls any more."""
        for each in self.billed:
            if each.standing.closed:
                msg = f"budget {each.path!r} is closed"
                raise ScopeClosed(msg)
            if each._process != _process[0]:
                msg = f"budget {each.path!r} was opened before a fork: open it in this process"
                raise ScopeClosed(msg)

    def loop(self, path: tuple[str, ...]) -> Loop:
        """The agent loop of that path; call under the store's lock."""
        loop = self.loops.get(path[-1])
        if loop is None:
            loop = self.loops[path[-1]] = Loop(path, self)
        return loop

    def holder(self, path: tuple[str, ...]) -> Loop | Self:
        """What keeps the conversation of an agent loop, or of the calls outside any loop."""
        if not path:
            return self
        with STORE.lock:
            return self.loop(path)

    def forget_loop(self, id: str) -> None:  # noqa: A002 -- the word used everywhere
        """Give back what an agent loop kept for its last call; call under the store's lock."""
        loop = self.loops.pop(id, None)
        if loop is not None:
            loop.drop()

    def take_back_last_call(self, loop: Loop | None) -> None:
        """Undo the grant of a last call that was never sent; call under the store's lock."""
        self.standing.latched = None
        self.standing.finished = False
        if loop is not None:
            loop.granted = False

    def add_own(self, used: Vector) -> None:
        """Note what a call of this scope used; call under the store's lock."""
        self._own = plus(self._own, used)

    def close(self, *, error: bool = False) -> None:
        """Refuse new calls; those in flight still settle. Closing twice changes nothing."""
        with STORE.lock:
            if self.standing.closed:
                return
            self.standing.closed = True
            self.standing.error = self.standing.error or error
            self._closed_at = time.monotonic()
            for loop in [each for each in self.loops.values() if each.scope is self]:
                self.forget_loop(loop.id)
            self.account.wake()
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
    def activate(self) -> Iterator[Self]:
        """Make this the open scope in a thread that did not inherit it."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    def __enter__(self) -> Self:
        self.check_open()
        self._token = _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than entered
                _current.reset(self._token)
            self._token = None
        self.close(error=kind is not None and self.standing.exceeded is None)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, trace: object
    ) -> None:
        self.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<Scope {self.path!r} {self.outcome or 'open'}>"

    def _ask(self) -> Difficulty | Awaitable[float | Difficulty]:
        """Ask the estimator; calls it makes itself are admitted with the difficulty unknown."""
        self._difficulty = UNKNOWN
        prompt, self._prompt = self._prompt, None
        estimator = self.budget.estimator
        return UNKNOWN if estimator is None else ask(estimator, Task(prompt, self.budget.name))

    def _estimate(self) -> None:
        answer = self._ask()
        if isinstance(answer, Difficulty):
            self._difficulty = answer
        elif self.budget.estimator is not None:
            if hasattr(answer, "close"):
                answer.close()  # pyright: ignore -- a coroutine that nobody will await
            distrust(self.budget.estimator, "it is async and this call is not")

    async def _aestimate(self) -> None:
        answer = self._ask()
        estimator = self.budget.estimator
        if isinstance(answer, Difficulty) or estimator is None:
            self._difficulty = answer if isinstance(answer, Difficulty) else UNKNOWN
            return
        try:
            self._difficulty = understand(estimator, await answer)
        except Exception as error:  # noqa: BLE001 -- observation never hurts
            self._difficulty = distrust(estimator, error)


def _exhausted(budget: Budget) -> State:
    """A State in which every limited meter is fully spent and the difficulty is unknown."""
    amounts = [0] * 6
    for meter, limit in budget.held_limits:
        amounts[meter] = limit
    tokens, sent, output, reasoning, turns, nano = amounts
    settled = (tokens, sent, output, reasoning, turns, nano)
    return State(budget, Call(), settled=settled, elapsed=budget.seconds or 0.0, turn=turns + 1)
