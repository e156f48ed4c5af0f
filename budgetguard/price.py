"""Price: what a user writes for a model that the price library does not know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Amount: TypeAlias = Decimal | str | float
"""A number of dollars as you may write it; an int too. A float is read as `Decimal(str(x))`."""

_MOST: Final = 1_000_000  # a dollar per token: beyond it, somebody mistook the unit


@dataclass(frozen=True, slots=True, init=False)
class Price:
    """What you write for a model the library does not know: `Price(input="1.25", output="10")`.

    In US dollars. Zero is a price: a local model is free because somebody said so.

    Raises:
        TypeError: an amount is not a number (a bool is not one).
        ValueError: an amount is negative, not finite or above a dollar per token, or `checked` is
            not an ISO date.
    """

    input: Decimal
    """Per million input tokens."""
    output: Decimal
    """Per million output tokens, thinking included."""
    cache_read: Decimal | None
    """Per million input tokens read from the prompt cache; `None` means as `input`."""
    cache_write: Decimal | None
    """Per million input tokens written to the prompt cache; `None` means as `input`."""
    source: str
    """Where the price comes from, for reports; default `"user"`."""
    checked: str | None
    """The ISO date on which somebody looked; `None` means nobody said."""

    def __init__(  # noqa: PLR0913 - one argument per field
        self,
        *,
        input: Amount,
        output: Amount,
        cache_read: Amount | None = None,
        cache_write: Amount | None = None,
        source: str = "user",
        checked: str | None = None,
    ) -> None:
        put = object.__setattr__  # frozen for everybody else
        put(self, "input", _dollars("input", input))
        put(self, "output", _dollars("output", output))
        for name, amount in (("cache_read", cache_read), ("cache_write", cache_write)):
            put(self, name, None if amount is None else _dollars(name, amount))
        put(self, "source", source)
        put(self, "checked", None if checked is None else date.fromisoformat(checked).isoformat())


def price_of(value: Price | Mapping[str, Amount | None]) -> Price:
    """Read a price, which may be written as a plain mapping: `{"input": "1", "output": "2"}`.

    Raises:
        TypeError: neither a `Price` nor a mapping of its fields, or as `Price` does.
        ValueError: as `Price` does.
    """
    return value if isinstance(value, Price) else Price(**value)  # pyright: ignore[reportArgumentType]


def _dollars(name: str, amount: object) -> Decimal:
    message = f"{name} must be dollars per million tokens, from 0 to {_MOST:,}, not {amount!r}"
    if isinstance(amount, bool) or not isinstance(amount, int | float | str | Decimal):
        raise TypeError(message)
    try:
        dollars = Decimal(str(amount) if isinstance(amount, float) else amount)
    except InvalidOperation:
        raise ValueError(message) from None
    if not dollars.is_finite() or not 0 <= dollars <= _MOST:
        raise ValueError(message)
    return dollars
