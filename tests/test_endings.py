"""The end of a budget: which ending, the moving reserve, the last call, the latch."""

import pickle

import pytest

from budgetguard import (
    Budget,
    BudgetExceeded,
    BudgetStopped,
    Call,
    Plan,
    Price,
    Scope,
    ScopeClosed,
    Ticket,
    Usage,
    effort,
    fail,
    finish,
    spent,
    stop,
    turns_left,
    when,
)

LOOP = ("agent",)
INNER = ("agent", "sub-agent")
PRICES = {"m": Price(input="1", output="2")}


def call(loop: tuple[str, ...] = LOOP, *, sent: int = 100, cap: int | None = 50) -> Call:
    return Call("m", input_tokens=sent, max_output_tokens=cap, loop=loop, tools=True)


def turn(scope: Scope, loop: tuple[str, ...] = LOOP, **size: int) -> Ticket:
    ticket = scope.admit(call(loop, **size))
    ticket.settle(Usage(ticket.need[1], 10), ends_loop=ticket.plan.final)
    return ticket


def test_under_turns_12_the_12th_call_of_a_loop_is_the_last_call() -> None:
    with Budget("b", turns=12).open() as scope:
        finals = [turn(scope).plan.final for _ in range(12)]
        assert finals == [False] * 11 + [True]
        with pytest.raises(BudgetExceeded) as refusal:
            turn(scope)
    assert (refusal.value.meter, refusal.value.used, refusal.value.limit) == ("turns", 12, 12)
    assert scope.outcome == "refused"
    assert scope.spent.turns == 12


def test_outside_a_loop_finish_changes_nothing_and_no_reserve_is_kept() -> None:
    with Budget("b", turns=3).open() as scope:
        assert [turn(scope, ()).plan.final for _ in range(3)] == [False, False, False]
        with pytest.raises(BudgetExceeded):
            turn(scope, ())


def test_the_reserve_is_this_input_this_cap_the_growth_and_the_answer() -> None:
    """An ordinary call at 100 in and 50 out needs 150; a last call then 100 + 50 + 64 + 200."""
    budget = Budget("b", tokens=150 + 414, answer_tokens=200)
    with budget.open() as scope:
        assert turn(scope).plan == Plan(max_output_tokens=50)
    with budget.replace(tokens=150 + 413).open() as scope:
        assert scope.admit(call()).plan.max_output_tokens == 49


def test_the_reserve_moves_with_the_largest_growth_seen() -> None:
    with Budget("b", tokens=10_000, answer_tokens=200).open() as scope:
        turn(scope, sent=100)
        turn(scope, sent=400)
        turn(scope, sent=450)
        left = 10_000 - 950 - 30
        assert scope.remaining.tokens == left
        big = scope.admit(call(sent=450, cap=None))
        assert big.plan.max_output_tokens is not None
        reserve = 450 + big.plan.max_output_tokens + 300 + 64 + 200
        assert left - (450 + big.plan.max_output_tokens) - reserve in (0, 1)


def test_the_last_call_is_paid_from_the_reserve() -> None:
    with Budget("b", tokens=1_000, answer_tokens=200).open() as scope:
        plans = [turn(scope, sent=250).plan for _ in range(2)]
    assert [plan.final for plan in plans] == [False, True]
    assert plans[0].max_output_tokens == 50
    assert scope.spent.tokens <= 1_000
    assert scope.outcome == "finished"


def test_how_a_budget_ends_also_decides_about_a_call_that_does_not_fit_earlier() -> None:
    policy = when(spent(1.0), stop())
    with Budget("b", tokens=1_000, policy=policy).open() as scope:
        turn(scope, (), sent=880)
        with pytest.raises(BudgetStopped):
            turn(scope, (), sent=200)
    assert scope.outcome == "stopped"
    assert scope.exceeded is None


def test_a_policy_that_names_no_ending_fails() -> None:
    with Budget("b", turns=1, policy=effort("low")).open() as scope:
        assert not turn(scope).plan.final
        with pytest.raises(BudgetExceeded) as refusal:
            turn(scope)
    assert not isinstance(refusal.value, BudgetStopped)


def test_finish_makes_this_call_the_last_and_stop_comes_after_it() -> None:
    policy = when(spent(0.5), finish()) + when(spent(1.0), stop())
    with Budget("b", turns=10, policy=policy).open() as scope:
        assert [turn(scope).plan.final for _ in range(6)] == [False] * 5 + [True]
        with pytest.raises(BudgetStopped):
            turn(scope)
    assert scope.outcome == "stopped"


def test_a_policy_that_ends_before_the_limit_is_obeyed() -> None:
    with Budget("b", turns=10, policy=when(turns_left(8), fail())).open() as scope:
        turn(scope)
        turn(scope)
        with pytest.raises(BudgetExceeded, match="policy"):
            turn(scope)


def test_a_loop_gets_one_last_call_even_if_it_goes_on_asking() -> None:
    with Budget("b", turns=2).open() as scope:
        turn(scope)
        last = scope.admit(call())
        last.settle(Usage(100, 5), ends_loop=False)
        assert last.plan.final
        for _ in range(3):
            with pytest.raises(BudgetExceeded):
                turn(scope)


def test_a_last_call_that_was_never_sent_is_granted_again() -> None:
    with Budget("b", turns=1).open() as scope:
        scope.admit(call()).release()
        assert turn(scope).plan.final
    assert scope.outcome == "finished"


def test_an_ending_is_sticky_although_a_smaller_call_would_fit() -> None:
    with Budget("b", tokens=1_000, policy=when(spent(1.0), fail())).open() as scope:
        with pytest.raises(BudgetExceeded):
            turn(scope, (), sent=5_000)
        with pytest.raises(BudgetExceeded) as again:
            turn(scope, (), sent=10)
    assert again.value.meter == "tokens"
    assert scope.spent.turns == 0


def test_ancestors_are_not_latched_so_one_refused_call_closes_nobody_else() -> None:
    with Budget("tenant", tokens=1_000).open() as tenant:
        with Budget("task").open() as task:
            with pytest.raises(BudgetExceeded) as refusal:
                turn(task, (), sent=5_000)
            with pytest.raises(BudgetExceeded):
                turn(task, (), sent=10)
        assert refusal.value.budget == "tenant"
        with Budget("task").open() as other:
            turn(other, (), sent=10)
    assert (tenant.outcome, task.outcome, other.outcome) == ("refused", "refused", "completed")


def test_the_outermost_scope_answers() -> None:
    with (
        Budget("a", turns=1).open() as a,
        Budget("b", turns=1).open() as b,
        Budget("c", turns=5).open() as c,
    ):
        turn(c, ())
        with pytest.raises(BudgetExceeded) as refusal:
            turn(c, ())
    assert refusal.value.budget == "a"
    assert refusal.value.path == "a"
    assert refusal.value.scope is a
    assert {each.exceeded for each in (a, b, c)} == {refusal.value}


def test_an_inner_loop_ends_quietly_so_that_the_outer_one_still_answers() -> None:
    with Budget("b", turns=3).open() as scope:
        assert not turn(scope).plan.final
        assert not turn(scope, INNER).plan.final
        with pytest.raises(BudgetStopped):
            turn(scope, INNER)
        assert turn(scope).plan.final
    assert scope.outcome == "stopped"


def test_an_inner_loop_in_a_child_scope_ends_quietly_too() -> None:
    with Budget("b", turns=3).open() as outer:
        turn(outer)
        with Budget("research", turns=10).open() as inner:
            turn(inner, INNER)
            with pytest.raises(BudgetStopped) as quiet:
                turn(inner, INNER)
        assert quiet.value.budget == "b"
        assert turn(outer).plan.final
    assert inner.outcome == "stopped"
    assert outer.outcome == "finished"


def test_an_inner_loop_has_a_last_call_of_its_own_budget() -> None:
    with Budget("b", turns=10).open() as outer:
        turn(outer)
        with Budget("research", turns=2).open() as inner:
            assert [turn(inner, INNER).plan.final for _ in range(2)] == [False, True]
        assert not turn(outer).plan.final
    assert inner.outcome == "finished"


def test_without_an_owed_last_call_the_inner_refusal_raises() -> None:
    with Budget("b", turns=2, policy=when(spent(1.0), fail())).open() as scope:
        turn(scope)
        turn(scope, INNER)
        with pytest.raises(BudgetExceeded) as refusal:
            turn(scope, INNER)
    assert not isinstance(refusal.value, BudgetStopped)


def test_a_summary_call_does_not_eat_the_reserve_of_the_loop_around_it() -> None:
    with Budget("b", turns=2).open() as scope:
        scope.admit(call()).settle(Usage(100, 10))
        with pytest.raises(BudgetStopped):
            turn(scope, ())
        assert turn(scope).plan.final


def test_parallel_loops_each_keep_a_last_call() -> None:
    with Budget("b", turns=6).open() as scope:
        for name in ("x", "y", "z"):
            scope.admit(call((name,))).settle(Usage(100, 10))
        assert [turn(scope, (name,)).plan.final for name in ("x", "y", "z")] == [True] * 3
    assert scope.spent.turns == 6


def test_a_loop_that_answered_gives_its_reserve_back() -> None:
    with Budget("b", turns=3).open() as scope:
        scope.admit(call(("x",))).settle(Usage(100, 10), ends_loop=True)
        assert not turn(scope, ("y",)).plan.final
        assert turn(scope, ("y",)).plan.final


def test_a_shielded_scope_is_billed_to_its_ancestors_and_not_refused_by_them() -> None:
    with Budget("task", turns=1).open() as task:
        turn(task, ())
        with Budget("wrap-up", turns=1).open(shield=True) as wrap_up:
            assert turn(wrap_up, ()).plan == Plan()
            with pytest.raises(BudgetExceeded) as refusal:
                turn(wrap_up, ())
        assert refusal.value.budget == "wrap-up"
    assert task.spent.turns == 2
    assert (task.outcome, wrap_up.outcome) == ("completed", "refused")


def test_a_shield_needs_a_limit_of_its_own_and_does_not_hide_from_an_account_with_an_id() -> None:
    with Budget("task", turns=1).open(id="order-shield") as task:
        turn(task, ())
        with pytest.raises(ValueError, match="limit of its own"):
            Budget("free").open(shield=True)
        with Budget("wrap-up", turns=1).open(shield=True) as wrap_up:
            with pytest.raises(BudgetExceeded) as refusal:
                turn(wrap_up, ())
    assert refusal.value.budget == "task"


def test_a_deadline_refuses_after_its_seconds() -> None:
    with Budget("b", seconds=0.02).open() as scope:
        turn(scope, ())
        while scope.elapsed() < 0.02:
            pass
        with pytest.raises(BudgetExceeded) as refusal:
            turn(scope, ())
    assert (refusal.value.meter, refusal.value.limit) == ("seconds", 0.02)


def test_a_closed_scope_refuses_and_lets_calls_in_flight_settle_into_ancestors() -> None:
    with Budget("task", tokens=10_000).open() as task:
        with Budget("part", tokens=10_000).open() as part:
            ticket = part.admit(call(()))
        ticket.settle(Usage(100, 10))
        with pytest.raises(ScopeClosed, match="part"):
            part.admit(call(()))
    assert (part.spent.tokens, task.spent.tokens) == (110, 110)


def test_what_was_billed_beyond_the_hold_is_settled_truthfully_and_shown() -> None:
    with Budget("b", tokens=200, prices=PRICES).open() as scope:
        scope.admit(call((), sent=100, cap=50)).settle(Usage(300, 60))
    assert scope.spent.tokens == 360
    assert scope.overshoot.tokens == 210
    assert scope.remaining.tokens == 0


def test_every_refusal_pickles_with_its_numbers() -> None:
    with Budget("b", turns=1, policy=when(spent(1.0), stop())).open() as scope:
        turn(scope, ())
        with pytest.raises(BudgetStopped) as refusal:
            turn(scope, ())
    copy = pickle.loads(pickle.dumps(refusal.value))
    assert type(copy) is BudgetStopped
    assert copy.numbers() == refusal.value.numbers()
    assert str(copy) == "budget 'b': turns 1 of 1 used"
    assert copy.scope is None
    assert refusal.value.scope is scope


def test_giving_one_loops_last_call_back_does_not_undo_the_ending_of_another() -> None:
    with Budget("b", turns=6).open() as scope:
        for name in ("x", "y"):
            scope.admit(call((name,))).settle(Usage(100, 10))
            scope.admit(call((name,))).settle(Usage(100, 10))
        assert turn(scope, ("x",)).plan.final
        scope.admit(call(("y",))).release()
        with pytest.raises(BudgetExceeded):
            turn(scope, ())
        assert turn(scope, ("y",)).plan.final
