"""Bad input is refused when a Budget is made, by an error that names the parameter."""

import math
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from budgetguard import (
    Budget,
    Limits,
    Price,
    cap_output,
    downgrade,
    easier_than,
    effort,
    fail,
    finish,
    harder_than,
    observe,
    spent,
    stop,
    turns_left,
    when,
)


@pytest.mark.parametrize(
    "name", ["tokens", "input_tokens", "output_tokens", "reasoning_tokens", "turns"]
)
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("9", TypeError), (True, TypeError)],
)
def test_a_count_must_be_a_positive_whole_number(
    name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=name):
        Budget("b", **{name: value})


@pytest.mark.parametrize(
    "value", [0, -1, "-0.5", "nan", "inf", math.nan, math.inf, "free", "1e-12"]
)
def test_money_must_be_a_finite_positive_amount(value: Any) -> None:
    with pytest.raises(ValueError, match="usd"):
        Budget("b", usd=value)


@pytest.mark.parametrize("value", [True, [1], b"1"])
def test_money_must_be_a_number(value: Any) -> None:
    with pytest.raises(TypeError, match="usd"):
        Budget("b", usd=value)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("seconds", 0, ValueError),
        ("seconds", -1.0, ValueError),
        ("seconds", math.nan, ValueError),
        ("seconds", math.inf, ValueError),
        ("seconds", "9", TypeError),
        ("patience", -1, ValueError),
        ("patience", math.inf, ValueError),
        ("answer_tokens", 0, ValueError),
        ("policy", "finish", TypeError),
        ("policy", spent(0.5), TypeError),
        ("stakes", "huge", ValueError),
        ("unpriced", "free", ValueError),
        ("ladder", "gpt-5-mini", TypeError),
        ("ladder", [""], TypeError),
        ("ladder", [5], TypeError),
        ("estimator", 0.5, TypeError),
        ("prices", {"m": {"input": "-1", "output": "1"}}, ValueError),
        ("prices", {"m": 5}, TypeError),
        ("prices", "m", TypeError),
    ],
)
def test_any_other_bad_parameter_is_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        Budget("b", **{name: value})


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_budget_needs_a_name(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="name"):
        Budget(name)


@pytest.mark.parametrize(
    ("part", "whole"),
    [
        ("input_tokens", "tokens"),
        ("output_tokens", "tokens"),
        ("reasoning_tokens", "tokens"),
        ("reasoning_tokens", "output_tokens"),
    ],
)
def test_a_limit_that_could_never_bind_contradicts_the_other(part: str, whole: str) -> None:
    limits: dict[str, Any] = {part: 101, whole: 100}
    with pytest.raises(ValueError, match=part):
        Budget("b", **limits)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: spent(1.5), ValueError),
        (lambda: spent(-0.1), ValueError),
        (lambda: spent(math.nan), ValueError),
        (lambda: spent("half"), TypeError),  # type: ignore[arg-type]
        (lambda: spent(0.5, of="money"), ValueError),  # type: ignore[arg-type]
        (lambda: effort("hard"), ValueError),  # type: ignore[arg-type]
        (lambda: cap_output(0), ValueError),
        (lambda: cap_output(1.5), TypeError),  # type: ignore[arg-type]
        (lambda: downgrade(0), ValueError),
        (lambda: turns_left(-1), ValueError),
        (lambda: harder_than(2), ValueError),
        (lambda: easier_than(0.5, sure=3), ValueError),
        (lambda: observe("all"), TypeError),  # type: ignore[arg-type]
        (lambda: when(spent(0.5) and spent(0.6), finish()), TypeError),
        (lambda: when(not spent(0.5), finish()), TypeError),
        (lambda: when(spent(0.5)), TypeError),
        (lambda: when(finish(), stop()), TypeError),  # type: ignore[arg-type]
        (lambda: when(spent(0.5), "stop"), TypeError),  # type: ignore[arg-type]
        (lambda: when(spent(0.5), fail()) + 5, TypeError),  # type: ignore[operator]
    ],
)
def test_a_bad_rule_is_refused_when_it_is_written(
    make: Callable[[], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make()


def test_money_is_exact_and_a_float_is_read_as_it_is_written() -> None:
    assert Budget("b", usd=0.1).usd == Decimal("0.1")
    assert Budget("b", usd="0.25").held_limits == ((5, 250_000_000),)
    assert Budget("b", usd=2).usd == Decimal(2)


def test_a_copy_is_validated_like_a_new_budget() -> None:
    budget = Budget("b", turns=3)
    assert budget.replace(turns=5).turns == 5
    assert budget.turns == 3
    with pytest.raises(ValueError, match="turns"):
        budget.replace(turns=0)
    with pytest.raises(TypeError):
        budget.replace(turn=5)


def test_budgets_compare_and_pickle_by_value() -> None:
    def make() -> Budget:
        policy = when(spent(0.5) & ~harder_than(0.8), effort("low")) + when(spent(1.0), stop())
        prices = {"m": Price(input=1, output=2)}
        return Budget("b", usd="1", turns=3, policy=policy, ladder=["small"], prices=prices)

    assert make() == make()
    assert hash(make()) == hash(make())
    assert pickle.loads(pickle.dumps(make())) == make()
    assert make() != make().replace(turns=4)


def test_a_budget_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Budget("b").turns = 5  # type: ignore[misc]


def test_no_limit_at_all_means_measure_only() -> None:
    assert Budget("b").limits == Limits()
    assert Budget("b").held_limits == ()
