"""Efforts: one scale, dated facts, and a Plan that only ever lowers what the caller set."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import Plan
from budgetguard.efforts import (
    EFFORTS,
    FAMILIES,
    Asked,
    Steering,
    anthropic,
    family_of,
    openai_chat,
)
from budgetguard.efforts.scale import THINKING_TOKENS, at_most, effort_of, lower, one_less

GPT_5, GPT_54, SONNET, OPUS = map(
    family_of, ("gpt-5", "gpt-5.4-2026-03-05", "claude-sonnet-4-5-20250929", "claude-opus-4-6")
)


def test_the_scale_is_ordered_and_lower_is_its_meet() -> None:
    for a, b in itertools.product(EFFORTS, EFFORTS):
        assert lower(a, b) == EFFORTS[min(EFFORTS.index(a), EFFORTS.index(b))]
    assert lower(None, "low") == lower("low", None) == "low"
    assert [one_less(level) for level in EFFORTS] == ["none", *EFFORTS[:-1]]


def test_a_level_that_a_model_does_not_list_becomes_the_next_lower_one_it_lists() -> None:
    assert at_most("max", ("low", "medium")) == "medium"
    assert at_most("minimal", ("low", "medium")) == "low"
    assert at_most("low", ()) is None


def test_a_thinking_budget_corresponds_to_the_level_that_has_room_for_it() -> None:
    assert [effort_of(n) for n in (1_024, 1_025, 8_192, 99_999)] == [
        "minimal", "low", "medium", "max",
    ]  # fmt: skip
    assert [effort_of(THINKING_TOKENS[level]) for level in EFFORTS] == list(EFFORTS)


def test_every_family_has_a_source_and_a_default_it_lists() -> None:
    for family in FAMILIES:
        assert family.source
        assert family.default is None or family.default in family.levels


def test_an_unknown_model_is_sent_nothing_but_the_cap() -> None:
    asked = Asked(family_of("my-own-model"), effort="high")
    assert openai_chat(Plan(effort="low", max_output_tokens=99), asked) == Steering(
        max_output_tokens=99
    )


@pytest.mark.parametrize(
    ("family", "user", "plan", "sent"),
    [
        (GPT_5, None, "low", "low"),
        (GPT_5, None, "medium", None),
        (GPT_5, None, "high", None),
        (GPT_5, "high", "medium", "medium"),
        (GPT_5, "minimal", "low", None),
        (GPT_5, "high", "none", "minimal"),
        (GPT_5, "minimal", "none", None),
        (GPT_54, None, "low", None),
        (GPT_54, "xhigh", "low", "low"),
        (family_of("gpt-4o"), None, "low", None),
        (OPUS, None, "medium", "medium"),
        (OPUS, "max", "xhigh", "high"),
        (SONNET, None, "low", None),
    ],
)
def test_the_effort_sent_is_the_weaker_of_the_users_and_the_plans(
    family: object, user: object, plan: object, sent: object
) -> None:
    asked = Asked(family, effort=user)  # type: ignore[arg-type]
    for dialect in (openai_chat, anthropic):
        assert dialect(Plan(effort=plan), asked).effort == sent  # type: ignore[arg-type]


def test_effort_is_not_sent_with_tools_where_the_endpoint_refuses_it() -> None:
    asked = Asked(GPT_54, effort="high", tools=True)
    assert openai_chat(Plan(effort="low"), asked).effort is None
    assert openai_chat(Plan(effort="none"), asked).effort == "none"


@given(
    st.integers(1_024, 64_000),
    st.none() | st.integers(0, 70_000),
    st.none() | st.integers(1, 70_000),
    st.integers(1_025, 128_000),
)
def test_a_thinking_budget_stays_legal_or_is_turned_off(
    budget: int, plan: int | None, cap: int | None, own: int
) -> None:
    asked = Asked(
        SONNET, thinks=True, thinking_tokens=budget, max_output_tokens=max(own, budget + 1)
    )
    steering = anthropic(Plan(thinking_tokens=plan, max_output_tokens=cap), asked)
    sent_cap = steering.max_output_tokens or asked.max_output_tokens
    assert sent_cap is not None
    sent = budget if steering.thinking_tokens is None else steering.thinking_tokens
    assert sent == 0 or 1_024 <= sent < sent_cap
    assert sent <= budget
    assert plan is None or sent <= plan


@given(
    st.sampled_from(FAMILIES),
    st.none() | st.sampled_from(EFFORTS),
    st.none() | st.sampled_from(EFFORTS),
    st.none() | st.integers(1, 9_999),
    st.none() | st.integers(1, 9_999),
)
def test_nothing_is_ever_raised_above_what_the_caller_set(family, user, plan, own, cap) -> None:
    asked = Asked(family, effort=user, max_output_tokens=own)
    for dialect in (openai_chat, anthropic):
        said = dialect(Plan(effort=plan, max_output_tokens=cap), asked)
        if said.effort is not None:
            now = user or family.default
            assert EFFORTS.index(said.effort) < EFFORTS.index(now)
            assert said.effort in family.levels
        if said.max_output_tokens is not None:
            assert own is None or said.max_output_tokens < own
