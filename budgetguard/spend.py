"""What is limited, and exact arithmetic on it: money is integer nano-dollars inside.

Inside the ledger a spend is a `Vector`, a plain tuple in the order of `HELD_METERS`; outside it
is a `Spend`. Tokens are never floats, money is never a float, so sums are exact and associative.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

Meter = Literal[
    "tokens", "input_tokens", "output_tokens", "reasoning_tokens", "turns", "usd", "seconds"
]
"""The name of something a Budget can limit."""

METERS: Final[tuple[Meter, ...]] = get_args(Meter)

HELD_METERS: Final[tuple[Meter, ...]] = METERS[:-1]
"""The meters that can be held before a call: all but `seconds`, which is a deadline."""

TOKENS, INPUT, OUTPUT, REASONING, TURNS, USD = range(6)

Vector = tuple[int, int, int, int, int, int]
"""One integer for each of `HELD_METERS`; usd in nano-dollars."""

ZERO: Final[Vector] = (0, 0, 0, 0, 0, 0)

NANO: Final = 1_000_000_000
"""Nano-dollars in a dollar."""

PICO_PER_NANO: Final = 1_000

_EXACT: Final = Context(prec=60)  # whatever the user's own decimal context is


def usd(nano: int) -> Decimal:
    """An amount of nano-dollars in dollars, exactly."""
    return _EXACT.divide(Decimal(nano), Decimal(NANO))


def public_amount(meter: int, amount: int) -> int | Decimal:
    """An amount as users see it: dollars on the usd meter, a count on any other."""
    return usd(amount) if meter == USD else amount


def vector(amounts: Iterable[int]) -> Vector:
    """Six amounts, in the order of `HELD_METERS`, as a vector."""
    tokens, sent, output, reasoning, turns, nano = amounts
    return (tokens, sent, output, reasoning, turns, nano)


def at_meters(amounts: Iterable[tuple[int, int]]) -> Vector:
    """The amounts of some meters, by index, as a vector; 0 on the others."""
    known = dict(amounts)
    return vector(known.get(meter, 0) for meter in range(len(HELD_METERS)))


def plus(a: Vector, b: Vector) -> Vector:
    """The sum, meter by meter."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5])


def most(one: Vector, other: Vector) -> Vector:
    """The larger of each two."""
    return vector(map(max, one, other))


def minus(a: Vector, b: Vector) -> Vector:
    """The difference, meter by meter."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3], a[4] - b[4], a[5] - b[5])


def exceeds(a: Vector, b: Vector) -> bool:
    """Whether `a` is above `b` on any meter."""
    return a[0] > b[0] or a[1] > b[1] or a[2] > b[2] or a[3] > b[3] or a[4] > b[4] or a[5] > b[5]


def excess(a: Vector, b: Vector) -> Vector:
    """How far `a` is above `b`, meter by meter; 0 where it is not."""
    return vector(max(0, x - y) for x, y in zip(a, b, strict=True))


@dataclass(frozen=True, slots=True)
class Spend:
    """What was used. Adds up exactly, meter by meter."""

    input_tokens: int = 0
    """Tokens sent, cached ones included in full."""
    output_tokens: int = 0
    """Tokens received, hidden reasoning included."""
    reasoning_tokens: int = 0
    """The part of the output that was reasoning, where the provider tells."""
    turns: int = 0
    """Admitted model calls."""
    nano_usd: int = 0
    """Money in nano-dollars; `usd` is the same in dollars."""
    seconds: float = 0.0
    """Time since the scope was opened; not summed over scopes."""

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    @property
    def usd(self) -> Decimal:
        """Money in US dollars, exact."""
        return usd(self.nano_usd)

    def __add__(self, other: Spend) -> Spend:
        return Spend(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Spend) -> Spend:
        return Spend(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    @classmethod
    def of(cls, amounts: Vector, seconds: float = 0.0) -> Spend:
        """The public form of a ledger vector."""
        return cls(*amounts[INPUT:], seconds=seconds)


@dataclass(frozen=True, slots=True)
class Limits:
    """An amount for each meter; `None` where there is no limit."""

    tokens: int | None = None
    """Input and output tokens together."""
    input_tokens: int | None = None
    """Tokens sent, cached ones included in full."""
    output_tokens: int | None = None
    """Tokens received, hidden reasoning included."""
    reasoning_tokens: int | None = None
    """Hidden and visible reasoning."""
    turns: int | None = None
    """Admitted model calls."""
    usd: Decimal | None = None
    """US dollars."""
    seconds: float | None = None
    """Seconds from the opening of the scope."""

    def plus(self, extension: Vector, seconds: float) -> Limits:
        """These limits, raised by a ledger vector and by seconds."""
        raised = {
            name: getattr(self, name) + (usd(extra) if name == "usd" else extra)
            for name, extra in zip(HELD_METERS, extension, strict=True)
            if getattr(self, name) is not None
        }
        return Limits(**raised, seconds=None if self.seconds is None else self.seconds + seconds)

    def held(self) -> tuple[tuple[int, int], ...]:
        """`(meter, amount)` for each limited meter that can be held; usd in nano-dollars."""
        amounts = [(index, getattr(self, name)) for index, name in enumerate(HELD_METERS)]
        return tuple(
            (index, int(_EXACT.multiply(amount, Decimal(NANO))) if index == USD else amount)
            for index, amount in amounts
            if amount is not None
        )


class Usage(NamedTuple):
    """What one model call really used, as the provider billed it."""

    input_tokens: int = 0
    """Tokens sent, cache reads and writes included."""
    output_tokens: int = 0
    """Tokens received, reasoning included."""
    reasoning_tokens: int = 0
    """The part of the output that was reasoning."""
    cache_read_tokens: int = 0
    """The part of the input that was read from the prompt cache."""
    cache_write_tokens: int = 0
    """The part of the input that was written to the prompt cache."""
    cache_write_1h_tokens: int = 0
    """The part of `cache_write_tokens` that is kept for an hour, which Anthropic prices higher."""
    estimated: bool = False
    """Whether any number is our estimate, because the provider reported none that is credible."""
    truncated: bool = False
    """Whether the answer ended at the output cap."""

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens
