"""The values a Budget accepts: each check names the parameter and says what to do."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation

from budgetguard.price import Price, price_of
from budgetguard.spend import NANO


def check_name(value: object) -> None:
    """A name is a non-empty string."""
    if not isinstance(value, str) or not value:
        msg = f"name must be a non-empty string, not {value!r}"
        raise TypeError(msg)


def check_count(value: object, name: str) -> None:
    """A count is a positive whole number, or `None`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be a whole number, not {value!r}"
        raise TypeError(msg)
    if value <= 0:
        msg = f"{name} must be a whole number above 0, not {value}; None stands for no limit"
        raise ValueError(msg)


def check_seconds(value: object, name: str, *, least_is_open: bool) -> None:
    """A time is a finite number of seconds that a thread can wait, or `None`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name} must be a number of seconds, not {value!r}"
        raise TypeError(msg)
    if not math.isfinite(value) or value < 0 or (least_is_open and value == 0):
        msg = f"{name} must be finite and positive, not {value!r}"
        raise ValueError(msg)
    if value > threading.TIMEOUT_MAX:
        msg = f"{name} must be at most {threading.TIMEOUT_MAX:.0f} seconds, not {value!r}"
        raise ValueError(msg)


def check_share(value: object) -> None:
    """A share is a fraction above 0, up to 1, or `None`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"share must be a number above 0 and at most 1, not {value!r}"
        raise TypeError(msg)
    if not 0 < value <= 1:
        msg = f"share must be above 0 and at most 1 (a fraction, not percent), not {value!r}"
        raise ValueError(msg)


def as_money(value: object) -> Decimal | None:
    """US dollars, exactly: at least one nano-dollar."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        msg = f"usd must be an int, str or Decimal, not {value!r}"
        raise TypeError(msg)
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        msg = f"usd must be a number of dollars, not {value!r}"
        raise ValueError(msg) from None
    if not amount.is_finite() or amount * NANO < 1:
        msg = f"usd must be above 0 (at least one nano-dollar) and finite, not {value!r}"
        raise ValueError(msg)
    return amount


def check_part(part: int | None, whole: int | None, part_name: str, whole_name: str) -> None:
    """A limit on a part is not larger than that on the whole."""
    if part is not None and whole is not None and part > whole:
        msg = f"{part_name}={part} can never bind under {whole_name}={whole}: lower or drop it"
        raise ValueError(msg)


def as_text(value: object, name: str) -> str:
    """A string, which may be empty."""
    if not isinstance(value, str):
        msg = f"{name} must be a string, not {value!r}"
        raise TypeError(msg)
    return value


def as_choice(value: object, name: str, choices: Sequence[object]) -> object:
    """One of the choices."""
    if value not in choices:
        msg = f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}"
        raise ValueError(msg)
    return value


def as_estimator(value: object) -> object:
    """Anything that can be called, or `None`."""
    if value is not None and not callable(value):
        msg = f"estimator must be a callable Task -> float | Difficulty, not {value!r}"
        raise TypeError(msg)
    return value


def as_ladder(value: object) -> tuple[str, ...]:
    """Names of models."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        msg = f"ladder must be a list of model names, cheapest last, not {value!r}"
        raise TypeError(msg)
    rungs = tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    for rung in rungs:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(rung, str) or not rung:
            msg = f"ladder must hold model names, not {rung!r}"
            raise TypeError(msg)
    return rungs  # pyright: ignore[reportUnknownVariableType]


def as_prices(value: object) -> dict[str, Price]:
    """Prices by model name."""
    if not isinstance(value, Mapping):
        msg = f"prices must map model names to prices, not {value!r}"
        raise TypeError(msg)
    prices: dict[str, Price] = {}
    for model, price in value.items():  # pyright: ignore[reportUnknownVariableType]
        try:
            prices[str(model)] = price_of(price)  # pyright: ignore[reportUnknownArgumentType]
        except (TypeError, ValueError) as error:
            msg = f"prices[{model!r}]: {error}"
            raise type(error)(msg) from None
    return prices
