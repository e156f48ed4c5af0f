"""The algebra of policies: three-valued conditions, and Plans that only get stricter."""

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import (
    DEFAULT_POLICY,
    Budget,
    Call,
    Difficulty,
    Plan,
    State,
    cap_output,
    downgrade,
    easier_than,
    effort,
    fail,
    finish,
    harder_than,
    spent,
    stop,
    turns_left,
    when,
)
from budgetguard.difficulty import UNKNOWN
from budgetguard.efforts import EFFORTS
from budgetguard.plan import End
from budgetguard.policy import Condition

PLANS = st.builds(
    Plan,
    st.none() | st.sampled_from(EFFORTS),
    st.none() | st.integers(0, 10_000),
    st.none() | st.integers(1, 10_000),
    st.integers(0, 3),
    st.booleans(),
    st.none() | st.sampled_from(get_args(End)),
)
ANSWERS = (True, False, None)


def state(
    *,
    tokens: int = 0,
    turns: int = 0,
    elapsed: float = 0.0,
    difficulty: Difficulty = UNKNOWN,
    budget: Budget | None = None,
) -> State:
    settled = (tokens, tokens, 0, 0, turns, 0)
    budget = budget or Budget("b", tokens=1_000, turns=10)
    return State(budget, Call("m"), settled=settled, elapsed=elapsed, difficulty=difficulty)


@given(PLANS, PLANS, PLANS)
def test_the_meet_of_plans_is_a_meet(a: Plan, b: Plan, c: Plan) -> None:
    assert a & b == b & a
    assert (a & b) & c == a & (b & c)
    assert a & a == a
    assert a & Plan() == a
    assert (a & b) & a == a & b


def constant(answer: bool | None) -> Condition:
    return spent(0.0, of="usd") | (lambda _: answer) if answer is None else _Constant(answer)


class _Constant(Condition):
    def __init__(self, answer: bool) -> None:
        self.answer = answer

    def __call__(self, _state: State) -> bool:
        return self.answer


@pytest.mark.parametrize(("a", "b"), list(itertools.product(ANSWERS, ANSWERS)))
def test_conditions_follow_kleene_logic(a: bool | None, b: bool | None) -> None:
    both, either = (constant(a) & constant(b))(state()), (constant(a) | constant(b))(state())
    rank = {False: 0, None: 1, True: 2}
    assert rank[both] == min(rank[a], rank[b])
    assert rank[either] == max(rank[a], rank[b])
    assert (~constant(a))(state()) == (None if a is None else not a)


def test_when_fires_only_on_true_so_the_opposite_of_unknown_does_not() -> None:
    assert when(harder_than(0.8), finish())(state()) == Plan()
    assert when(~harder_than(0.8), finish())(state()) == Plan()
    known = state(difficulty=Difficulty(0.9))
    assert when(harder_than(0.8), finish())(known) == Plan(final=True)


def test_a_plain_callable_is_a_condition_and_a_policy() -> None:
    def late(at: State) -> bool:
        return at.turn > 3

    def strict(_at: State) -> Plan:
        return Plan(max_output_tokens=7)

    policy = strict + when(late & spent(0.0), stop())
    assert policy(state()) == Plan(max_output_tokens=7)
    assert (when(spent(0.0) & late, stop()) + strict)(state()) == Plan(max_output_tokens=7)


def test_spent_asks_the_fullest_limited_meter_unless_one_is_named() -> None:
    at = state(tokens=500, turns=8)
    assert spent(0.8)(at) is True
    assert spent(0.81)(at) is False
    assert spent(0.5, of="tokens")(at) is True
    assert spent(0.51, of="tokens")(at) is False
    assert spent(0.1, of="usd")(at) is None
    assert spent(0.1)(state(budget=Budget("free"))) is None


def test_spent_counts_seconds_like_any_other_meter() -> None:
    timed = Budget("b", seconds=10)
    assert spent(0.5)(state(budget=timed, elapsed=5.0)) is True
    assert spent(0.5)(state(budget=timed, elapsed=4.9)) is False


def test_turns_left_counts_what_is_not_settled() -> None:
    assert turns_left(3)(state(turns=7)) is True
    assert turns_left(2)(state(turns=7)) is False
    assert turns_left(2)(state(budget=Budget("b", tokens=5))) is None


def test_a_rule_can_do_several_things() -> None:
    policy = when(spent(0.5), effort("low"), cap_output(100), downgrade(2))
    assert policy(state(tokens=500)) == Plan(effort="low", max_output_tokens=100, rung=2)


@pytest.mark.parametrize(
    ("tokens", "plan"),
    [
        (0, Plan()),
        (500, Plan()),
        (800, Plan(rung=1)),
        (950, Plan(rung=1, final=True)),
        (1_000, Plan(rung=1, final=True, end="fail")),
    ],
)
def test_the_default_policy_says_nothing_of_effort_while_difficulty_is_unknown(
    tokens: int, plan: Plan
) -> None:
    assert DEFAULT_POLICY(state(tokens=tokens)) == plan


def test_the_default_policy_lowers_effort_for_easy_and_for_late_work() -> None:
    easy, hard = Difficulty(0.1), Difficulty(0.9)
    assert DEFAULT_POLICY(state(difficulty=easy)).effort == "low"
    assert DEFAULT_POLICY(state(tokens=500, difficulty=Difficulty(0.5))).effort == "medium"
    assert DEFAULT_POLICY(state(tokens=500, difficulty=hard)).effort is None
    assert DEFAULT_POLICY(state(difficulty=Difficulty(0.1, 0.4))).effort is None


def test_low_stakes_lower_one_level_more_and_high_stakes_keep_what_difficulty_would_lower() -> None:
    policy = when(easier_than(0.3), effort("low")) + when(spent(0.5), effort("medium"))
    easy = Difficulty(0.1)
    low, high = Budget("b", tokens=1_000, stakes="low"), Budget("b", tokens=1_000, stakes="high")
    assert policy(state(budget=low, difficulty=easy)).effort == "minimal"
    assert policy(state(budget=low, tokens=600)).effort == "low"
    assert policy(state(budget=high, difficulty=easy)).effort is None
    assert policy(state(budget=high, tokens=600, difficulty=easy)).effort == "medium"


def test_the_state_is_a_frozen_snapshot() -> None:
    at = state(tokens=400, turns=2)
    assert (at.spent.tokens, at.turn, at.effort, at.rung) == (400, 1, None, 0)
    assert at.remaining.tokens == 600
    assert at.limits.turns == 10
    with pytest.raises(AttributeError):
        at.turn = 5  # type: ignore[misc]


def test_end_and_final_do_not_compete() -> None:
    both = when(spent(0.5), finish()) + when(spent(0.5), fail())
    assert both(state(tokens=500)) == Plan(final=True, end="fail")
