"""Scopes: a tree that follows the code, accounts with an id, what can be read afterwards."""

import asyncio
import threading
import time
from decimal import Decimal, localcontext

import pytest

from budgetguard import (
    Budget,
    BudgetExceeded,
    Call,
    Difficulty,
    Plan,
    Price,
    ScopeClosed,
    Task,
    UnpricedModelError,
    Usage,
    current_scope,
    downgrade,
    effort,
    finish,
    harder_than,
    observe,
    when,
)

CALL = Call("gpt-4o", "openai", input_tokens=1_000, max_output_tokens=750)


def test_the_design_s_example_runs_as_written() -> None:
    budgets = {"tax": Budget("tax", tokens=200_000, usd="2", stakes="high", ladder=["gpt-5-mini"])}
    with budgets["tax"].open(id="order-42", prompt="What do I owe?") as task:
        with Budget("research", turns=8).open() as research:
            research.admit(CALL).settle(Usage(1_000, 750))
        with Budget("wrap-up", turns=1).open(shield=True) as wrap_up:
            wrap_up.admit(CALL).settle(Usage(1_000, 750))
    assert task.spent.turns == 2
    assert task.spent.usd == Decimal("0.02")
    assert task.remaining.usd == Decimal("1.98")
    assert task.remaining.tokens == 196_500
    assert (task.outcome, task.exceeded) == ("completed", None)
    assert task.own.turns == 0


def test_the_open_scope_follows_the_code() -> None:
    assert current_scope() is None
    with Budget("a").open() as a:
        assert current_scope() is a
        with Budget("b").open() as b:
            assert current_scope() is b
            assert b.parent is a
            assert b.path == "a/b"
        assert current_scope() is a
    assert current_scope() is None


async def test_a_scope_works_with_async_with_and_in_tasks() -> None:
    async with Budget("a", turns=5).open() as a:

        async def work() -> None:
            assert current_scope() is a
            (await a.aadmit(CALL)).settle(Usage(1, 1))

        await asyncio.gather(work(), work())
    assert a.spent.turns == 2


def test_a_raw_thread_inherits_nothing_until_it_activates_the_scope() -> None:
    seen: list[object] = []
    with Budget("a").open() as a:

        def work() -> None:
            seen.append(current_scope())
            with a.activate():
                seen.append(current_scope())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [None, a]


def test_handles_of_one_id_share_the_account_and_closing_one_leaves_it_open() -> None:
    budget = Budget("thread", turns=3)
    with budget.open(id="shared-1") as first:
        first.admit(CALL).settle(Usage(1_000, 1))
    with budget.open(id="shared-1") as second:
        second.admit(CALL).settle(Usage(1_000, 1))
        assert (second.spent.turns, second.own.turns) == (2, 1)
        assert second.remaining.turns == 1
    with budget.open(id="shared-2") as other:
        assert other.spent.turns == 0
    assert first.own.turns == 1


def test_an_id_opened_inside_itself_is_billed_once() -> None:
    budget = Budget("thread", turns=3)
    with budget.open(id="twice"), budget.open(id="twice") as inner:
        inner.admit(CALL).settle(Usage(1_000, 1))
    assert inner.spent.turns == 1


def test_remaining_is_the_least_of_the_lineage() -> None:
    with Budget("a", turns=2, tokens=50_000).open() as a, Budget("b", turns=9).open() as b:
        b.admit(CALL).settle(Usage(1_000, 0))
        assert (b.remaining.turns, b.remaining.tokens) == (1, 49_000)
        assert a.remaining.turns == 1


def test_an_error_of_the_block_is_the_outcome_unless_it_is_a_refusal() -> None:
    with pytest.raises(KeyError), Budget("a").open() as scope:
        raise KeyError
    assert scope.outcome == "error"
    with pytest.raises(BudgetExceeded), Budget("a", turns=1).open() as scope:
        for _ in range(2):
            scope.admit(CALL).settle(Usage(1, 1))
    assert scope.outcome == "refused"


def test_an_unpriced_model_under_a_usd_limit_fails_closed_and_says_how_to_name_a_price() -> None:
    call = Call("my-llama", input_tokens=1_000, max_output_tokens=1_000)
    with Budget("a", usd="1").open() as scope, pytest.raises(UnpricedModelError) as refusal:
        scope.admit(call)
    assert "prices={'my-llama': Price(" in str(refusal.value)
    assert scope.spent.turns == 0
    named = Budget("a", usd="1", prices={"my-llama": {"input": "1", "output": "2"}})
    with named.open() as scope:
        scope.admit(call).settle(Usage(1_000, 1_000))
    assert scope.spent.usd == Decimal("0.003")
    with Budget("a", turns=1).open() as scope:
        scope.admit(call).settle(Usage(1_000, 1_000))
    assert scope.spent.usd == 0


def test_unpriced_highest_prices_a_model_as_the_dearest_known() -> None:
    call = Call("my-llama", "openai", input_tokens=1_000, max_output_tokens=1_000)
    with Budget("a", usd="100", unpriced="highest").open() as scope:
        scope.admit(call).settle(Usage(1_000, 1_000))
    assert scope.spent.usd > Decimal("0.1")


def test_the_hold_is_the_dearest_a_call_can_cost_and_the_charge_what_it_did() -> None:
    prices = {"m": Price(input="1", output="2", cache_read="0.1", cache_write="1.25")}
    with Budget("a", usd="1", prices=prices).open() as scope:
        ticket = scope.admit(Call("m", input_tokens=1_000, max_output_tokens=100))
        assert scope.held.usd == Decimal("0.00145")
        ticket.settle(Usage(1_000, 100, cache_read_tokens=500, cache_write_tokens=100))
    assert scope.spent.usd == Decimal("0.000775")


def test_a_call_without_a_cap_is_capped_at_its_hold() -> None:
    with Budget("a", usd="0.02").open() as scope:
        first = scope.admit(CALL._replace(max_output_tokens=None))
        assert first.plan.max_output_tokens == 1_750
        assert scope.held.usd == Decimal("0.02")
        first.settle(Usage(1_000, 750))
        assert scope.admit(CALL._replace(max_output_tokens=None)).plan.max_output_tokens == 750


def test_only_turns_limited_means_no_cap_is_sent() -> None:
    with Budget("a", turns=3).open() as scope:
        assert scope.admit(CALL._replace(max_output_tokens=None)).plan.max_output_tokens is None


def test_below_32_tokens_a_call_is_not_worth_making_unless_the_caller_asked_for_less() -> None:
    with Budget("a", output_tokens=31).open() as scope:
        scope.admit(CALL._replace(max_output_tokens=8)).settle(Usage(1_000, 0))
        with pytest.raises(BudgetExceeded) as refusal:
            scope.admit(CALL)
    assert (refusal.value.meter, refusal.value.needed) == ("output_tokens", 32)


def test_several_completions_hold_several_caps() -> None:
    with Budget("a", tokens=10_000).open() as scope:
        scope.admit(CALL._replace(n=3))
        assert scope.held.tokens == 1_000 + 3 * 750


def test_reasoning_tokens_are_held_at_the_planned_thinking() -> None:
    thinking = Call("gpt-5", input_tokens=100, effort="medium", thinks=True)
    with Budget("a", reasoning_tokens=20_000).open() as scope:
        scope.admit(thinking)
        assert scope.held.reasoning_tokens == 8_192
        scope.admit(thinking._replace(effort="low"))
        assert scope.held.reasoning_tokens == 8_192 + 2_048
        scope.admit(CALL)
        assert scope.held.reasoning_tokens == 8_192 + 2_048


def turn_above(number: int):
    return lambda at: at.turn > number


def test_the_ladder_is_absolute_and_skips_a_rung_that_is_not_cheaper() -> None:
    cheap, dear = Price(input="0.1", output="0.4"), Price(input="9", output="9")
    budget = Budget(
        "a",
        tokens=100_000,
        policy=when(turn_above(1), downgrade()) + when(turn_above(2), downgrade(9)),
        ladder=["dear", "cheap", "last"],
        prices={"dear": dear, "cheap": cheap, "last": Price(input="0.05", output="0.2")},
    )  # fmt: skip
    with budget.open() as scope:
        models = []
        for _ in range(3):
            ticket = scope.admit(CALL)
            models.append((ticket.model, ticket.plan.rung))
            ticket.settle(Usage(1_000, 10))
    assert models == [("gpt-4o", 0), ("cheap", 2), ("last", 3)]
    assert scope.outcome == "degraded"


def test_effort_is_latched_and_the_default_policy_lowers_it_once_after_the_first_call() -> None:
    thinking = Call("gpt-5", input_tokens=10, effort="high", thinks=True, max_output_tokens=100)
    budget = Budget("a", turns=10, estimator=lambda _: Difficulty(0.5))
    with budget.open() as scope:
        efforts = []
        for _ in range(9):
            ticket = scope.admit(thinking)
            efforts.append(ticket.plan.effort)
            ticket.settle(Usage(10, 10))
    assert efforts == [None] * 5 + ["medium"] * 4
    own = when(lambda at: at.turn == 2, effort("low")) + when(
        lambda at: at.turn == 3, effort("none")
    )
    with budget.replace(policy=own).open() as scope:
        efforts = []
        for _ in range(4):
            ticket = scope.admit(thinking)
            efforts.append(ticket.plan.effort)
            ticket.settle(Usage(10, 10))
    assert efforts == [None, "low", "none", "none"]


def test_an_estimator_is_asked_once_and_its_own_calls_are_admitted_without_it() -> None:
    asked: list[Task] = []

    def judge(task: Task) -> float:
        asked.append(task)
        scope = current_scope()
        assert scope is not None
        scope.admit(CALL).settle(Usage(10, 1))
        return 0.9

    policy = when(harder_than(0.8), effort("high"))
    with Budget("a", turns=9, policy=policy, estimator=judge).open(prompt="prove it") as scope:
        plans = [_plan(scope) for _ in range(2)]
    assert asked == [Task("prove it", "a")]
    assert [plan.effort for plan in plans] == ["high", "high"]
    assert scope.spent.turns == 3


def _plan(scope):
    ticket = scope.admit(CALL)
    ticket.settle(Usage(10, 1))
    return ticket.plan


async def test_an_async_estimator_acts_on_async_paths_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def judge(_task: Task) -> Difficulty:
        await asyncio.sleep(0)
        return Difficulty(0.9)

    budget = Budget("a", policy=when(harder_than(0.8), effort("high")), estimator=judge)
    with budget.open() as scope:
        ticket = await scope.aadmit(CALL)
        ticket.settle(Usage(1, 1))
    assert ticket.plan.effort == "high"
    with budget.open() as scope:
        assert _plan(scope).effort is None
    assert len([r for r in caplog.records if "async" in r.getMessage()]) == 1


@pytest.mark.parametrize("answer", [2.0, "hard", None, float("nan")])
def test_a_broken_estimator_is_logged_once_and_changes_nothing(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_task: Task):
        if answer is None:
            raise RuntimeError("no idea")
        return answer

    broken.__qualname__ = f"broken_{answer}"
    budget = Budget("a", policy=when(harder_than(0.1), effort("low")), estimator=broken)
    for _ in range(2):
        with budget.open() as scope:
            assert _plan(scope).effort is None
    assert len(caplog.records) == 1


def test_a_policy_that_returns_no_plan_is_named() -> None:
    with pytest.raises(TypeError, match="the policy of budget 'a' must return a Plan"):
        Budget("a", policy=lambda _: None).open()  # type: ignore[arg-type,return-value]


def test_money_is_exact_whatever_the_users_decimal_context_is() -> None:
    with localcontext(prec=4):
        budget = Budget("a", usd="1.23456789", prices={"m": Price(input="1.111", output="2")})
        with budget.open() as scope:
            scope.admit(Call("m", input_tokens=1_003, max_output_tokens=1)).settle(Usage(1_003, 1))
            spent = scope.spent.usd
    assert budget.held_limits == ((5, 1_234_567_890),)
    assert spent == Decimal("0.001116333")


def test_shadow_mode_and_shielded_ancestors_are_charged_at_their_own_prices() -> None:
    priced = Budget("a", usd=5, prices={"local": Price(input="1", output="2")})
    call = Call("local", input_tokens=1_000, max_output_tokens=1_000)
    with priced.replace(policy=observe()).open() as shadow:
        shadow.admit(call).settle(Usage(1_000, 1_000))
    with priced.open() as task, Budget("wrap-up", turns=1).open(shield=True) as wrap_up:
        wrap_up.admit(call).settle(Usage(1_000, 1_000))
    assert shadow.spent.usd == task.spent.usd == Decimal("0.003")


def test_a_last_call_that_crosses_a_long_context_tier_is_held_at_the_dearer_price() -> None:
    call = Call("claude-sonnet-4-5", "anthropic", input_tokens=200_000, max_output_tokens=1_000)
    with Budget("a", usd="5", policy=finish()).open() as scope:
        ticket = scope.admit(call._replace(loop=("x",)))
        held = scope.held.usd
        ticket.settle(Usage(200_050, 1_000))
    assert ticket.plan.final
    assert scope.spent.usd <= held
    assert scope.overshoot.nano_usd == 0


def test_a_second_handle_of_an_account_closes_like_any_other() -> None:
    budget = Budget("a", turns=5)
    with budget.open(id="inside itself"):
        inner = budget.open(id="inside itself")
        inner.close()
        with pytest.raises(ScopeClosed):
            inner.admit(CALL)


def test_an_account_in_use_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, hours = Budget("a", turns=5), 3_600.0
    start = time.monotonic()
    with budget.open(id="long") as first:
        for hour in (0, 23, 46):
            monkeypatch.setattr(time, "monotonic", lambda hour=hour: start + hour * hours)
            first.admit(CALL).settle(Usage(1, 1))
        with budget.open(id="long") as second:
            assert second.spent.turns == 3
        monkeypatch.setattr(time, "monotonic", lambda: start + 71 * hours)
        with budget.open(id="long") as anew:
            assert anew.spent.turns == 0


def test_no_estimator_can_put_the_prompt_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def leaky(task: Task):
        raise RuntimeError(f"cannot score {task.prompt!r}")

    leaky.__qualname__ = "leaky"
    with Budget("a", estimator=leaky).open(prompt="CANARY-SECRET") as scope:
        _plan(scope)
    assert "leaky" in caplog.text
    assert "CANARY" not in caplog.text


@pytest.mark.parametrize(
    "plan",
    [Plan(max_output_tokens=-5), Plan(rung=-1), Plan(effort="lo")],
    ids=str,  # type: ignore[arg-type]
)
def test_a_policy_that_makes_up_a_plan_wrongly_is_told(plan: Plan) -> None:
    with pytest.raises(ValueError, match="budget 'a'"):
        Budget("a", policy=lambda _: plan).open()


def test_a_scope_is_entered_once_and_a_closed_one_is_never_the_open_one() -> None:
    with Budget("a").open() as outer:
        with Budget("b").open() as scope:
            with pytest.raises(RuntimeError, match="entered already"), scope:
                pass
            scope.close()
            assert current_scope() is outer


def test_an_id_is_a_string_and_patience_is_what_a_thread_can_wait() -> None:
    with pytest.raises(TypeError, match="id"):
        Budget("a").open(id=42)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patience"):
        Budget("a", patience=1e10)


def test_a_rung_is_asked_for_what_that_model_takes() -> None:
    thinking = Call("gpt-5", "openai", input_tokens=10, effort="high", thinks=True)
    with Budget("a", usd="5", policy=downgrade(), ladder=["gpt-4o-mini"]).open() as scope:
        ticket = scope.admit(thinking)
    assert (ticket.model, ticket.plan.max_output_tokens) == ("gpt-4o-mini", 4_096)
    assert ticket.need[3] == 0
    with Budget("a", usd="5", policy=downgrade(), ladder=["gpt-4o-mini"]).open() as scope:
        assert scope.admit(thinking._replace(can_change_model=False)).model == "gpt-5"


@pytest.mark.parametrize("usage", [Usage(-1, 5), Usage(5, -1), Usage(1.5, 2), Usage("5", 1)])
def test_a_usage_that_cannot_be_is_refused_and_the_call_stays_in_flight(usage: Usage) -> None:
    with Budget("b", tokens=100_000).open() as task:
        ticket = task.admit(Call(input_tokens=10))
        with pytest.raises(ValueError, match="whole numbers"):
            ticket.settle(usage)
        assert task.held.turns == 1
        ticket.settle(Usage(10, 5))
        assert (task.spent.tokens, task.held.turns) == (15, 0)
