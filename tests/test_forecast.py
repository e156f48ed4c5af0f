"""Learned holds: what calls without a cap of their own are held at, and what that rests on."""

import json
import logging
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import (
    Budget,
    BudgetExceeded,
    Call,
    Ticket,
    Usage,
    cap_output,
    effort,
    observe,
    when,
)
from budgetguard.forecast import FORECAST, KEYS, MEMORY, Forecast, Outputs

DEFAULT = 4_096
CALL = Call("some-model", input_tokens=100)
PLENTY = Budget("work", tokens=10**9)


def lognormal(mean: float, sigma: float, seed: int) -> Iterator[int]:
    rng = random.Random(seed)
    while True:
        yield max(1, round(mean * rng.lognormvariate(-(sigma**2) / 2, sigma)))


def bimodal(seed: int, share: float) -> Iterator[int]:
    rng, short, long = random.Random(seed), lognormal(50, 0.3, seed), lognormal(3_000, 0.2, seed)
    while True:
        yield next(long if rng.random() < share else short)


def ask(outputs: Outputs, length: int, bound: int = 1 << 30) -> tuple[int, bool]:
    """One call: its cap, and whether its answer was cut off."""
    cap = min(outputs.cap(DEFAULT), bound)
    outputs.observe(min(length, cap), truncated=length > cap, cap=cap)
    return cap, length > cap


def cut(outputs: Outputs, lengths: Iterator[int], number: int) -> int:
    return sum(ask(outputs, next(lengths))[1] for _ in range(number))


def taught(answers: list[int]) -> Outputs:
    outputs = Outputs()
    for each in answers:
        outputs.observe(each)
    return outputs


def test_before_eight_answers_the_default_is_held() -> None:
    assert Outputs().cap(DEFAULT) == DEFAULT
    assert taught([300] * 7).cap(DEFAULT) == DEFAULT
    assert taught([300] * 8).cap(DEFAULT) == 1_108  # half way between, of the logarithms
    assert taught([300] * 256).cap(DEFAULT) == 324


@pytest.mark.parametrize("mean", [100, 300, 1_000, 3_000])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.5])
def test_few_answers_are_cut_off_whatever_the_lengths(mean: int, sigma: float) -> None:
    outputs, lengths = Outputs(), lognormal(mean, sigma, seed=mean)
    assert cut(outputs, lengths, 100) <= 8
    assert cut(outputs, lengths, 3_000) <= 75  # 2.5 %


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3])
def test_few_answers_are_cut_off_where_long_ones_are_rare(share: float) -> None:
    outputs, lengths = Outputs(), bimodal(seed=1, share=share)
    assert cut(outputs, lengths, 100) <= 8
    assert cut(outputs, lengths, 3_000) <= 75


def test_a_cap_is_a_small_multiple_of_the_mean() -> None:
    for sigma, most in ((0.3, 3), (1.0, 8)):
        outputs, lengths = Outputs(), lognormal(300, sigma, seed=5)
        cut(outputs, lengths, 500)
        caps = [ask(outputs, next(lengths))[0] for _ in range(1_000)]
        assert sum(caps) / 1_000 < most * 300


@pytest.mark.parametrize("seed", range(10))
def test_answers_five_times_longer_are_known_after_twenty(seed: int) -> None:
    outputs = Outputs()
    cut(outputs, lognormal(300, 0.3, seed), 400)
    longer = lognormal(1_500, 0.3, seed)
    assert 2 <= cut(outputs, longer, 20) <= 4
    assert cut(outputs, longer, 80) <= 2


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=400))
def test_for_any_lengths_one_in_fifty_one_is_cut_off_once_the_widening_ends(
    lengths: list[int],
) -> None:
    outputs = Outputs()
    number = sum(ask(outputs, each)[1] for each in lengths)
    assert number * 51 <= len(lengths) + 51 * 8


@given(st.lists(st.tuples(st.integers(1, 4_000), st.booleans()), max_size=300))
def test_a_forecast_exceeds_the_default_only_if_answers_as_long_were_seen(
    seen: list[tuple[int, bool]],
) -> None:
    outputs, longest = Outputs(), 0
    for output, truncated in seen:
        outputs.observe(output, truncated=truncated, cap=outputs.cap(DEFAULT))
        longest = max(longest, output)
        assert 256 <= outputs.cap(DEFAULT) <= max(DEFAULT, 2 * longest)


def test_a_default_that_proves_too_small_is_left_behind() -> None:
    outputs, lengths = Outputs(), lognormal(20_000, 0.3, seed=1)
    assert cut(outputs, lengths, 30) <= 6
    assert outputs.cap(DEFAULT) > 20_000


def test_an_answer_cut_by_a_smaller_cap_widens_nothing_and_is_no_short_answer() -> None:
    outputs = taught([100] * 50 + [1_000] * 50)
    before = outputs.cap(DEFAULT)
    for _ in range(50):
        outputs.observe(200, truncated=True, cap=200)
    assert 0.9 * before < outputs.cap(DEFAULT) <= before
    assert sorted(outputs.record().answers)[50:] == [1_000] * 100


def test_answers_all_cut_by_a_smaller_cap_keep_the_default() -> None:
    outputs, lengths = Outputs(), lognormal(3_000, 0.3, seed=2)
    for _ in range(100):
        ask(outputs, next(lengths), bound=200)
    assert outputs.cap(DEFAULT) == DEFAULT


def test_small_budgets_learn_the_same_as_large_ones() -> None:
    small, large = Outputs(), Outputs()
    lengths, rng = lognormal(300, 1.0, seed=4), random.Random(4)
    for each in (next(lengths) for _ in range(2_000)):
        ask(small, each, bound=rng.randint(100, 1_000))
        ask(large, each)
        few, many = (sorted(each.record().answers) for each in (small, large))
    assert 0.6 < few[MEMORY // 2] / many[MEMORY // 2] < 1.6


def test_a_burst_at_one_cap_does_not_widen_it_fifty_times() -> None:
    outputs = taught([300] * 256)
    cap = outputs.cap(DEFAULT)
    for _ in range(50):
        outputs.observe(cap, truncated=True, cap=cap)
        assert outputs.cap(DEFAULT) <= 5 * cap


def test_calls_in_flight_count_as_answers_not_known() -> None:
    outputs = taught([300] * 8)
    outputs.in_flight = 50
    assert outputs.cap(DEFAULT) > 3_400


def test_reasoning_is_held_at_what_was_seen_and_the_plan_s_until_then() -> None:
    outputs = Outputs()
    assert outputs.reasoning(8_192) == 8_192
    for _ in range(100):
        outputs.observe(1_000, 600)
    assert 600 < outputs.reasoning(8_192) < 1_200
    assert outputs.reasoning(100) == 600


def test_memory_is_bounded() -> None:
    forecast = Forecast()
    for number in range(KEYS + 50):
        outputs = forecast.of(f"budget {number}", "m", None)
        for length in range(1, MEMORY + 50 if number == KEYS else 10):
            outputs.observe(length, length)
        forecast.of("budget 0", "m", None)
    assert len(forecast) == KEYS
    assert len(forecast.of("budget 0", "m", None)) == 9  # used all the time
    assert len(forecast.of("budget 1", "m", None)) == 0  # made room
    assert len(forecast.of(f"budget {KEYS}", "m", None)) == MEMORY


def learned(*answers: int, budget: str = "b") -> Forecast:
    forecast = Forecast()
    for each in answers:
        forecast.of(budget, "m", "low").observe(each, each // 2)
    return forecast


def test_a_dump_brings_everything_back_and_is_small() -> None:
    forecast = Forecast()
    for key in range(10):
        cut(forecast.of("b", f"model {key}", None), lognormal(1_000, 1.0, key), 300)
    dump = forecast.dump()
    again = Forecast()
    again.load(dump)
    assert again.dump() == dump
    assert len(dump) < 15_000
    for key in range(10):
        before, after = (each.of("b", f"model {key}", None) for each in (forecast, again))
        assert after.cap(DEFAULT) == pytest.approx(before.cap(DEFAULT), rel=0.5)


def test_loading_replaces_what_was_known() -> None:
    forecast = learned(1, 2, 3)
    forecast.load(learned(7, budget="other").dump())
    assert forecast.dump() == learned(7, budget="other").dump()


def test_two_workers_learn_together_each_answer_once() -> None:
    kept, one, two = Forecast().dump(), learned(10, 11), learned(20, 21)
    for _ in range(3):
        for worker in (one, two):
            worker.merge(kept)
            worker.merge(kept)
            kept = worker.dump()
    one.of("b", "m", "low").observe(12)
    one.merge(kept)
    assert one.of("b", "m", "low").record().answers == [10, 11, 20, 21, 12]
    assert one.of("b", "m", "low").record().reasoning == [5, 5, 10, 10]


def test_what_only_one_worker_knows_stays_known_to_it() -> None:
    worker = learned(5)
    worker.merge(learned(6, budget="other").dump())
    assert worker.of("b", "m", "low").record().answers == [5]
    assert worker.of("other", "m", "low").record().answers == [6]


def test_widening_is_merged_as_what_was_added_since() -> None:
    one = learned(*[300] * 20)
    one.of("b", "m", "low").observe(300, truncated=True)
    kept = one.dump()
    for worker in (one, Forecast(), Forecast()):
        worker.merge(kept)
        kept = worker.dump()
    one.of("b", "m", "low").observe(300)
    one.merge(kept)
    assert one.of("b", "m", "low").record().widening == 49


def changed(change: Callable[[list[object]], object]) -> bytes:
    dump = json.loads(learned(1, 2).dump())
    change(dump["outputs"][0])
    return json.dumps(dump).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"format":2,"outputs":[]}',
        b'{"format":1,"outputs":7}',
        b'{"format":1,"outputs":[[]]}',
        b"[" * 100_000,
        learned(1).dump()[:-5],
        changed(lambda key: key.__setitem__(0, 1)),
        changed(lambda key: key.__setitem__(2, "hard")),
        changed(lambda key: key.__setitem__(2, [])),
        changed(lambda key: key.__setitem__(3, None)),
        changed(lambda key: key.__setitem__(3, True)),
        changed(lambda key: key.__setitem__(4, [-1])),
        changed(lambda key: key.__setitem__(4, [10**12])),
        changed(lambda key: key.__setitem__(5, ["1"])),
    ],
)
def test_a_broken_dump_changes_nothing_and_is_warned_of_once(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    forecast = learned(1, 2, 3)
    before = forecast.dump()
    with caplog.at_level(logging.WARNING, "budgetguard"):
        forecast.merge(data)
        forecast.load(data)
    assert forecast.dump() == before
    assert len(caplog.records) == 1


@given(st.binary(max_size=40), st.integers(0, 200), st.integers(0, 255))
def test_any_damage_is_read_or_ignored(junk: bytes, place: int, byte: int) -> None:
    dump = bytearray(learned(*range(1, 30)).dump())
    dump[place % len(dump)] = byte
    for data in (junk, bytes(dump)):
        forecast = Forecast()
        forecast.merge(data)
        for _, _, _, _, answers, reasoning in json.loads(forecast.dump())["outputs"]:
            assert len(answers) <= MEMORY
            assert len(reasoning) <= MEMORY


# ------------------------------------------------------------------------- through the public API


def settled(budget: Budget, call: Call, *usages: Usage) -> None:
    with budget.open() as scope:
        for usage in usages:
            scope.admit(call).settle(usage)


def held(budget: Budget, call: Call) -> Ticket:
    with budget.open() as scope:
        ticket = scope.admit(call)
        ticket.release()
    return ticket


def cap_of(budget: Budget, call: Call) -> int | None:
    return held(budget, call).plan.max_output_tokens


def test_the_second_burst_is_held_at_what_the_first_one_used() -> None:
    with PLENTY.open() as scope:
        first = [scope.admit(CALL) for _ in range(50)]
        assert {each.plan.max_output_tokens for each in first} == {DEFAULT}
        for number, each in enumerate(first):
            each.settle(Usage(100, 200 + number))
        second = [scope.admit(CALL) for _ in range(50)]
        assert min(each.plan.max_output_tokens or 0 for each in second) > 250
        assert max(each.plan.max_output_tokens or 0 for each in second) < 1_000
        assert scope.held.output_tokens < 50_000


def test_more_calls_run_at_once_after_learning() -> None:
    budget = Budget("work", tokens=10_000, patience=0)

    def at_once() -> int:
        scope, tickets = budget.open(), list[Ticket]()
        try:
            while True:
                tickets.append(scope.admit(CALL))
        except BudgetExceeded:
            return len(tickets)
        finally:
            for each in tickets:
                each.release()

    assert at_once() == 2
    settled(budget.replace(tokens=10**6), CALL, *[Usage(100, 300)] * 100)
    assert at_once() > 15


def test_another_budget_model_or_effort_is_learned_by_itself() -> None:
    settled(PLENTY, CALL._replace(effort="low"), *[Usage(100, 300)] * 20)
    known = CALL._replace(effort="low")
    assert (cap_of(PLENTY, known) or 0) < 1_000
    assert cap_of(PLENTY.replace(name="other"), known) == DEFAULT
    assert cap_of(PLENTY, known._replace(model="another-model")) == DEFAULT
    assert cap_of(PLENTY, known._replace(effort="high")) == DEFAULT


def test_the_effort_learned_for_is_the_one_it_is_called_with() -> None:
    lowered = PLENTY.replace(policy=effort("low"))
    thinker = CALL._replace(effort="high", thinks=True)
    settled(lowered, thinker, *[Usage(100, 300, 100)] * 20)
    assert cap_of(PLENTY, thinker) == DEFAULT + 16_384
    assert (cap_of(PLENTY, thinker._replace(effort="low")) or 0) < 1_500


def test_the_caller_s_own_cap_stands_and_teaches_nothing() -> None:
    settled(PLENTY, CALL._replace(max_output_tokens=50), *[Usage(100, 20)] * 20)
    assert cap_of(PLENTY, CALL) == DEFAULT
    settled(PLENTY, CALL, *[Usage(100, 300)] * 20)
    assert cap_of(PLENTY, CALL._replace(max_output_tokens=9_000)) == 9_000


def test_the_model_s_maximum_stays_a_bound() -> None:
    settled(PLENTY, CALL, *[Usage(100, 4_096, truncated=True)] * 4)
    assert (cap_of(PLENTY, CALL) or 0) > 8_000
    assert cap_of(PLENTY, CALL._replace(model_max_output=5_000)) == 5_000


@pytest.mark.parametrize(
    ("call", "usage"),
    [
        (CALL, Usage(100, 300, estimated=True)),
        (CALL, Usage()),
        (CALL._replace(n=2), Usage(100, 600)),
    ],
)
def test_estimates_errors_and_several_completions_teach_nothing(call: Call, usage: Usage) -> None:
    settled(PLENTY, call, *[usage] * 20)
    assert cap_of(PLENTY, CALL) == DEFAULT


def test_a_last_call_is_neither_forecast_nor_learned() -> None:
    budget = Budget("work", tokens=10**9, turns=1)
    for _ in range(20):
        settled(budget, CALL._replace(loop=("loop",)), Usage(100, 300))
    assert len(FORECAST.of("work", "some-model", None)) == 0
    settled(PLENTY, CALL, *[Usage(100, 300)] * 100)
    ticket = held(budget, CALL._replace(loop=("loop",)))
    assert (ticket.plan.final, ticket.plan.max_output_tokens) == (True, DEFAULT)


def test_reasoning_is_held_at_what_such_calls_reasoned() -> None:
    thinker = CALL._replace(effort="high", thinks=True)
    settled(PLENTY, thinker, *[Usage(100, 900, 600)] * 200)
    with PLENTY.open() as scope:
        scope.admit(thinker)
        assert 600 <= scope.held.reasoning_tokens < 1_300


def test_a_thinking_budget_of_the_caller_is_not_cut_by_a_forecast() -> None:
    thinker = CALL._replace(thinks=True, thinking_tokens=10_000)
    settled(PLENTY, thinker, *[Usage(100, 900, 600)] * 200)
    assert cap_of(PLENTY, thinker) == 10_512


def test_what_is_observed_only_is_learned_too() -> None:
    watched = PLENTY.replace(policy=observe(when(lambda state: False, effort("low"))))
    settled(watched, CALL, *[Usage(100, 300)] * 20)
    assert (cap_of(PLENTY, CALL) or 0) < 1_000


def test_calls_that_settle_or_are_released_are_in_flight_no_more() -> None:
    with PLENTY.open() as scope:
        tickets = [scope.admit(CALL) for _ in range(6)]
        outputs = FORECAST.of("work", "some-model", None)
        assert outputs.in_flight == 6
        for settle, release, unanswered in (tickets[:3], tickets[3:]):
            settle.settle(Usage(100, 300))
            release.release()
            unanswered.settle_unanswered()
            settle.settle(Usage(100, 300))
    assert (outputs.in_flight, len(outputs)) == (0, 2)


def test_near_the_end_a_cap_shrinks_to_what_is_left() -> None:
    settled(PLENTY, CALL, *[Usage(100, 300)] * 20)
    with Budget("work", tokens=750).open() as scope:
        scope.admit(CALL).settle(Usage(100, 300))
        ticket = scope.admit(CALL)
        assert ticket.plan.max_output_tokens == 250
        ticket.settle(Usage(100, 250, truncated=True))
    assert FORECAST.of("work", "some-model", None).record().widening == 0


def test_a_policy_s_smaller_cap_is_a_bound_and_widens_nothing() -> None:
    settled(PLENTY, CALL, *[Usage(100, 300)] * 20)
    capped = PLENTY.replace(policy=cap_output(100))
    assert cap_of(capped, CALL) == 100
    settled(capped, CALL, *[Usage(100, 100, truncated=True)] * 20)
    assert 300 < (cap_of(PLENTY, CALL) or 0) < 1_000
