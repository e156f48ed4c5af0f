"""Events: frozen records of every decision, to whoever subscribes, without content."""

import json
import logging
import stat
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from budgetguard import (
    Budget,
    BudgetExceeded,
    Call,
    Difficulty,
    Plan,
    Usage,
    events,
    log_to,
    observe,
    subscribe,
)


@pytest.fixture
def seen() -> Iterator[list[Any]]:
    records: list[Any] = []
    unsubscribe = subscribe(records.append)
    yield records
    unsubscribe()


def gpt_4o(**changes: Any) -> Call:
    return Call("gpt-4o", "openai", input_tokens=1_000, max_output_tokens=750)._replace(**changes)


def test_a_task_tells_its_whole_story_in_order(seen: list[Any]) -> None:
    with Budget("order", usd="0.10").open(id="order-story") as order:
        with Budget("triage", turns=1).open() as triage:
            triage.admit(gpt_4o()).settle(Usage(1_000, 750, cache_read_tokens=400))
            with pytest.raises(BudgetExceeded):
                triage.admit(gpt_4o())
    kinds = [type(each).__name__ for each in seen]
    assert kinds == [
        "Opened", "Opened", "Admitted", "Settled", "Decided", "Closed", "Closed",
    ]  # fmt: skip
    admitted, settled, refused, closed = seen[2:6]
    assert (admitted.path, admitted.turn, admitted.held_tokens) == ("order/triage", 1, 1_750)
    assert admitted.held_usd == Decimal("0.01")
    assert settled.call_id == admitted.call_id
    assert settled.usd == Decimal("0.0095")
    assert settled.price_source.startswith("genai-prices")
    assert (refused.decision, refused.reason, refused.used) == ("refuse", "turns", None)
    assert (closed.outcome, closed.turns, closed.tokens) == ("refused", 1, 1_750)
    assert order.id == "order-story"


def test_records_are_frozen(seen: list[Any]) -> None:
    with Budget("b").open():
        pass
    with pytest.raises(AttributeError):
        seen[0].path = "other"


def test_effort_is_told_when_it_changes_and_a_clamp_when_it_bites(seen: list[Any]) -> None:
    budget = Budget("b", tokens=10_000, estimator=lambda _: Difficulty(0.1))
    thinking = Call("gpt-5", "openai", input_tokens=100, effort="medium", thinks=True)
    with budget.open() as scope:
        for _ in range(2):
            scope.admit(thinking).settle(Usage(100, 50))
        scope.admit(thinking._replace(max_output_tokens=50_000)).settle(Usage(100, 50))
    told = [(e.decision, e.reason, e.asked, e.used) for e in seen if hasattr(e, "decision")]
    assert told == [
        ("effort", "difficulty", "medium", "low"),
        ("clamp", "tokens", "50000", "9600"),
    ]
    assert scope.outcome == "degraded"


def test_a_downgrade_without_a_ladder_is_told_once(seen: list[Any]) -> None:
    with Budget("b", turns=100).open() as scope:
        for _ in range(85):
            scope.admit(gpt_4o()).settle(Usage(1, 1))
    told = [(e.decision, e.asked, e.used) for e in seen if hasattr(e, "decision")]
    assert told == [("downgrade", "gpt-4o", "gpt-4o")]
    assert scope.outcome == "completed"


def test_an_observed_scope_tells_what_it_would_have_done_and_does_nothing(
    seen: list[Any],
) -> None:
    with Budget("b", turns=2, policy=observe()).open() as scope:
        plans = [_settled(scope) for _ in range(4)]
    assert {(plan.max_output_tokens, plan.final) for plan in plans} == {(None, False)}
    assert scope.spent.turns == 4
    assert scope.outcome == "completed"
    told = [(e.decision, e.observed) for e in seen if hasattr(e, "decision")]
    assert told == [("refuse", True), ("refuse", True)]


def _settled(scope: Any) -> Any:
    ticket = scope.admit(gpt_4o())
    ticket.settle(Usage(1_000, 5))
    return ticket.plan


def test_a_broken_subscriber_is_logged_once_and_hurts_nobody(
    seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_event: object) -> None:
        raise RuntimeError("no disk")

    unsubscribe = subscribe(broken)
    with caplog.at_level(logging.ERROR, "budgetguard"), Budget("b").open() as scope:
        scope.admit(gpt_4o()).settle(Usage(1, 1))
    unsubscribe()
    assert len(caplog.records) == 1
    assert len(seen) == 4


def test_the_log_is_json_lines_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    close = log_to(path)
    with Budget("b", usd="1").open() as scope:
        scope.admit(gpt_4o()).settle(Usage(1_000, 750))
    close()
    with Budget("after").open():
        pass
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [each["event"] for each in records] == ["opened", "admitted", "settled", "closed"]
    assert records[2]["usd"] == "0.01"
    assert records[3]["tokens"] == 1_750
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_release_is_told(seen: list[Any]) -> None:
    with Budget("b", turns=1).open() as scope:
        scope.admit(gpt_4o()).release()
    assert [type(each) for each in seen[2:3]] == [events.Released]
    assert scope.counts == (1, 0, 1)


def test_a_shadow_policy_that_fails_is_logged_once_and_holds_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []

    def fails_later(_state: object) -> Plan:
        calls.append(1)
        if len(calls) > 1:
            raise KeyError
        return Plan()

    with Budget("out", turns=5).open() as outer:
        with Budget("failing shadow", policy=observe(fails_later)).open() as shadow:
            for _ in range(2):
                _settled(shadow)
        assert (outer.spent.turns, outer.held.turns) == (2, 0)
    assert len(caplog.records) == 1


def test_an_interrupt_in_a_subscriber_leaks_no_hold() -> None:
    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.Admitted):
            raise KeyboardInterrupt

    with Budget("b", turns=5).open() as scope:
        unsubscribe = subscribe(interrupt)
        with pytest.raises(KeyboardInterrupt):
            scope.admit(gpt_4o())
        unsubscribe()
    assert scope.counts == (1, 0, 1)
