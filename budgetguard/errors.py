"""The error tree, and what each error knows.

```text
BudgetGuardError
├── BudgetExceeded          a limit, or the policy, refuses this call
│   ├── BudgetStopped       the same, where the policy says stop(): adapters turn it into a message
│   └── BudgetBusy          there is room, but other calls hold it and patience ran out
├── UnpricedModelError      a usd limit, and no price for this model
├── StoreUnavailableError   the store that keeps the account is out of reach
├── NoOpenBudget            a handler without a budget, and no open scope
└── ScopeClosed             the scope is closed, or was left behind by a fork
```

Numbers are attributes; nobody needs to parse the text. Every error pickles.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decimal import Decimal

    from budgetguard.scope import Scope

    Amount = int | float | Decimal


class BudgetGuardError(Exception):
    """Base of every error that budgetguard raises, apart from bad arguments (`ValueError`)."""


class BudgetExceeded(BudgetGuardError):  # noqa: N818 -- the field's standard name
    """A model call was refused, before it was made.

    Attributes:
        path: The budget's place, outermost first: `"order/triage"`.
        scope_id: Identifies the scope that refused.
        budget: Name of the budget that refused.
        meter: The meter that is short (`"turns"`, `"usd"`, ...).
        used: What is settled on that meter (tokens, turns, seconds or US dollars).
        held: What calls in flight hold of it.
        needed: What this call needs at least.
        limit: The limit of that meter.
        reason: Why, in words, where it is not simply the arithmetic.
    """

    def __init__(  # noqa: PLR0913 -- one keyword for each number the error carries
        self,
        *,
        path: str,
        scope_id: str,
        budget: str,
        meter: str,
        used: Amount,
        held: Amount,
        needed: Amount,
        limit: Amount | None,
        reason: str = "",
        scope: Scope | None = None,
    ) -> None:
        self.path = path
        self.scope_id = scope_id
        self.budget = budget
        self.meter = meter
        self.used = used
        self.held = held
        self.needed = needed
        self.limit = limit
        self.reason = reason
        self._scope = weakref.ref(scope) if scope is not None else None
        super().__init__(self._text())

    def _text(self) -> str:
        limit = "no limit" if self.limit is None else f"{self.used} of {self.limit} used"
        extra = f", {self.held} held" if self.held else ""
        needed = f", {self.needed} needed" if self.needed else ""
        why = f" ({self.reason})" if self.reason else ""
        return f"budget '{self.path}': {self.meter} {limit}{extra}{needed}{why}"

    @property
    def scope(self) -> Scope | None:
        """The scope that refused, while it lives in this process; `None` after pickling."""
        return self._scope() if self._scope is not None else None

    def numbers(self) -> dict[str, Any]:
        """The attributes as keyword arguments, from which an equal error can be built."""
        names = ("path", "scope_id", "budget", "meter", "used", "held", "needed", "limit", "reason")
        return {name: getattr(self, name) for name in names}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.numbers())


class BudgetStopped(BudgetExceeded):
    """The policy ends this budget with `stop()`: no call is made, and no error is meant.

    Framework adapters turn it into a typed final message; only code that calls
    `Scope.admit` itself sees it.
    """


class BudgetBusy(BudgetExceeded):
    """The room is there but held by calls in flight, and waiting for it was not possible.

    Raised when `patience` ran out, when waiting would block a running event loop, or when
    the caller itself holds what it waits for. It closes nothing: a later call may succeed.
    """


class UnpricedModelError(BudgetGuardError):
    """A usd limit is in reach and this model has no known price, so the call is not made.

    Attributes:
        model: The model without a price.
        budget: Name of the budget with the usd limit.
    """

    def __init__(self, model: str, budget: str) -> None:
        self.model = model
        self.budget = budget
        super().__init__(
            f"budget {budget!r} limits usd, but no price is known for model {model!r}. Name one: "
            f'Budget(..., prices={{{model!r}: Price(input="1.25", output="10")}}) in usd per '
            'million tokens, or choose Budget(..., unpriced="highest")'
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self.budget)


class StoreUnavailableError(BudgetGuardError):
    """The store that keeps an account is out of reach, so nobody knows what is left: fail closed.

    `Budget(..., on_store_failure="local")` allows a bounded part without it.

    Attributes:
        store: The URL of the store, without a password.
        why: Why it is out of reach, in a few words.
    """

    asked = True
    """Whether it was asked at all, so that it may have done what it was asked for."""

    def __init__(self, store: str, why: str) -> None:
        self.store = store
        self.why = why
        super().__init__(f"the store {store} is out of reach: {why}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.store, self.why)


class NoOpenBudget(BudgetGuardError):  # noqa: N818 -- reads as what happened
    """A handler was made without a budget and used where no scope is open."""


class ScopeClosed(BudgetGuardError):  # noqa: N818 -- reads as what happened
    """The scope is closed to new calls; those in flight still settle."""


def _rebuild(cls: type[BudgetExceeded], numbers: dict[str, Any]) -> BudgetExceeded:
    return cls(**numbers)
