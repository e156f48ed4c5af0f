"""Budget: what one task of a workflow may use, and what happens near the limit.

A Budget is a frozen, reusable value: validated when it is made, compared by value, pickled. The
live account of a task is a Scope, made by `Budget.open()`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from budgetguard.checks import (
    as_choice,
    as_estimator,
    as_ladder,
    as_money,
    as_prices,
    as_text,
    check_count,
    check_name,
    check_part,
    check_seconds,
    check_share,
)
from budgetguard.policy import AnyPolicy, check_policy, quiet_below
from budgetguard.rules import DEFAULT_POLICY, Observe
from budgetguard.spend import OUTPUT, REASONING, TOKENS, USD, Limits
from budgetguard.stores.opening import check_url
from budgetguard.stores.protocol import WINDOWS, Window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from budgetguard.difficulty import Estimator
    from budgetguard.ending import Ending
    from budgetguard.price import Amount, Price
    from budgetguard.scope import Scope

Stakes = Literal["low", "normal", "high"]
"""How bad a wrong answer is."""

Unpriced = Literal["refuse", "highest"]
"""What a usd limit does with a model that has no known price."""

OnStoreFailure = Literal["refuse", "local"]
"""What happens to calls while the store is out of reach."""

_COUNTS = ("tokens", "input_tokens", "output_tokens", "reasoning_tokens", "turns")
_PARTS = (
    ("input_tokens", "tokens"),
    ("output_tokens", "tokens"),
    ("reasoning_tokens", "tokens"),
    ("reasoning_tokens", "output_tokens"),
)


@dataclass(frozen=True, slots=True, init=False)
class Budget:
    """Limits and policy of one kind of task. Without any limit it only measures.

    Raises:
        ValueError: For a limit that is negative, zero, not finite, or larger than a limit it is
            part of, and for an unknown choice; the message names the parameter.
        TypeError: For a value of the wrong type, such as a policy that is not callable.
    """

    name: str
    """Name of the workflow; appears in errors, events and paths."""
    tokens: int | None
    """Input and output tokens together; cached input counts in full."""
    input_tokens: int | None
    """Tokens sent."""
    output_tokens: int | None
    """Tokens received, hidden reasoning included."""
    reasoning_tokens: int | None
    """Reasoning tokens; may overshoot by the calls in flight, as no provider caps them apart."""
    turns: int | None
    """Admitted model calls."""
    usd: Decimal | None
    """US dollars: an int, a str or a Decimal; a float is read as `Decimal(str(x))`."""
    seconds: float | None
    """Seconds from the opening of the scope: checked at admission, waiting counts."""
    policy: AnyPolicy
    """What happens on the way: any callable `State -> Plan`."""
    ladder: tuple[str, ...]
    """Names of cheaper models to step down to, in order."""
    stakes: Stakes
    """`low` lowers effort one level more, `high` keeps what difficulty would lower."""
    estimator: Estimator | None
    """`Task -> float | Difficulty`, sync or async; `None`: the difficulty is unknown."""
    prices: Mapping[str, Price]
    """Your own prices by model name, in usd per million tokens; they come first."""
    unpriced: Unpriced
    """Under a usd limit, a model without a price is refused, or priced at the `highest` known."""
    patience: float
    """Seconds an admission may wait for calls in flight to settle; 0 refuses at once."""
    answer_tokens: int
    """Output tokens kept back for the last answer of an agent loop."""
    share: float | None
    """The part of every limit of the scope around it that is kept for it while it is open, 0..1:
    what siblings cannot take from it. What it does not use returns when it closes."""
    window: Window | None
    """The account starts anew every UTC `hour`, `day` or `month`, and is one for all tasks (of an
    id, where they have one); `None`: never."""
    tenant: str
    """The partition of the store that the account lies in."""
    store: str | None
    """Where accounts are kept: `None`, the memory of this process; `sqlite:///file`, for the
    processes of one machine; `redis://host`, for many machines."""
    on_store_failure: OnStoreFailure
    """While the store is out of reach calls are refused, or a part is allowed here (`local`)."""
    limits: Limits = field(init=False, repr=False, compare=False)
    """The limits, as one value."""
    held_limits: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)
    """`(meter index, amount)` of every limit that is held before a call; usd in nano-dollars."""
    observing: bool = field(init=False, repr=False, compare=False)
    """Whether the policy is `observe(...)`."""
    rules: AnyPolicy = field(init=False, repr=False, compare=False)
    """The policy that is asked: what `observe` wraps, else the policy itself."""
    lowers_once: bool = field(init=False, repr=False, compare=False)
    """Whether the effort is lowered at most once after the first call (the default policy)."""
    quiet: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)
    """`(meter index, amount)`: while each is below it and difficulty is unknown, the policy is
    known to say nothing; empty where it must always be asked."""

    limits_output: bool = field(init=False, repr=False, compare=False)
    """Whether a limit depends on how long answers are, so that their length must be capped."""
    ending: Ending | None = field(init=False, repr=False, compare=False)
    """How it ends; found by asking the policy when the first scope opens."""

    def __init__(  # noqa: PLR0913 -- one argument for each thing a person may choose
        self,
        name: str,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        reasoning_tokens: int | None = None,
        turns: int | None = None,
        usd: Amount | None = None,
        seconds: float | None = None,
        policy: AnyPolicy = DEFAULT_POLICY,
        ladder: Sequence[str] = (),
        stakes: Stakes = "normal",
        estimator: Estimator | None = None,
        prices: Mapping[str, Price | Mapping[str, Amount | None]] | None = None,
        unpriced: Unpriced = "refuse",
        patience: float = 60.0,
        answer_tokens: int = 500,
        share: float | None = None,
        window: Window | None = None,
        tenant: str = "",
        store: str | None = None,
        on_store_failure: OnStoreFailure = "refuse",
    ) -> None:
        """Validate and normalise every parameter; each is documented at its field."""
        counts = (tokens, input_tokens, output_tokens, reasoning_tokens, turns)
        check_name(name)
        self._set("name", name)
        for each, count in zip(_COUNTS, counts, strict=True):
            check_count(count, each)
            self._set(each, count)
        check_count(answer_tokens, "answer_tokens")
        self._set("answer_tokens", answer_tokens)
        self._set("usd", as_money(usd))
        check_seconds(seconds, "seconds", least_is_open=True)
        self._set("seconds", seconds)
        check_seconds(patience, "patience", least_is_open=False)
        self._set("patience", patience)
        for part, whole in _PARTS:
            check_part(getattr(self, part), getattr(self, whole), part, whole)
        check_policy(policy)
        self._set("policy", policy)
        self._set("ladder", as_ladder(ladder))
        self._set("stakes", as_choice(stakes, "stakes", get_args(Stakes)))
        self._set("unpriced", as_choice(unpriced, "unpriced", get_args(Unpriced)))
        self._set("estimator", as_estimator(estimator))
        check_share(share)
        self._set("share", share)
        self._set("prices", as_prices(prices or {}))
        self._keep_accounts(window, tenant, store, on_store_failure)
        self._derive()

    def _keep_accounts(
        self, window: object, tenant: object, store: object, on_store_failure: object
    ) -> None:
        """Validate where accounts are kept, and for how long."""
        self._set("window", as_choice(window, "window", (None, *WINDOWS)))
        self._set("tenant", as_text(tenant, "tenant"))
        self._set("store", None if store is None else check_url(store))
        failure = as_choice(on_store_failure, "on_store_failure", get_args(OnStoreFailure))
        self._set("on_store_failure", failure)
        if failure == "local" and store is None:
            raise ValueError('on_store_failure="local" is for a budget with a store: name one')

    def _derive(self) -> None:
        limits = Limits(*(getattr(self, name) for name in Limits.__slots__))
        self._set("limits", limits)
        self._set("held_limits", limits.held())
        rules = self.policy.inner if isinstance(self.policy, Observe) else self.policy
        self._set("observing", rules is not self.policy)
        self._set("rules", rules)
        self._set("lowers_once", rules == DEFAULT_POLICY)
        quiet = 0.0 if self.seconds is not None else quiet_below(rules)
        amounts = tuple((meter, int(limit * quiet)) for meter, limit in self.held_limits)
        self._set("quiet", amounts)
        meters = {meter for meter, _ in self.held_limits}
        self._set("limits_output", bool(meters & {TOKENS, OUTPUT, REASONING, USD}))
        self._set("ending", None)

    def __hash__(self) -> int:
        return hash((self.name, self.limits))

    def replace(self, **changes: Any) -> Budget:
        """A copy with some parameters changed, validated like a new Budget.

        Raises:
            TypeError: If a parameter is unknown.
        """
        return replace(self, **changes)

    def open(
        self,
        *,
        id: str | None = None,
        prompt: str | None = None,
        shield: bool = False,
    ) -> Scope:
        """Open the account of one task, as a child of the scope that is open here.

        Args:
            id: Joins the account of that name instead of starting a new one; it lives for 24
                hours after its last use.
            prompt: What the task asks, for the difficulty estimator; never stored elsewhere.
            shield: Scopes above are billed but neither refuse nor steer.

        Raises:
            ValueError: If a shielded budget has no limit of its own, or the id is empty.
        """
        if id is not None and not isinstance(id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"id must be a string, not {id!r}"
            raise TypeError(msg)
        if id == "":
            raise ValueError("id must not be empty; leave it out for an account of its own")
        from budgetguard.scope import Scope  # noqa: PLC0415 -- scope needs Budget

        return Scope.below_current(self, id=id, prompt=prompt, shield=shield)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
