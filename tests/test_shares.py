"""A share of the scope around it: what siblings cannot take, and get back."""

import asyncio

import pytest

from budgetguard import Budget, BudgetBusy, BudgetExceeded, Call, Usage, fail, spent, when
from budgetguard.stores import memory

ENDS = when(spent(1.0), fail())
CREW = Budget("crew", turns=10, policy=ENDS, patience=0)
WORKER = Budget("worker", share=0.2, policy=ENDS)
GREEDY = Budget("greedy", policy=ENDS)
CALL = Call(input_tokens=1)


def use(scope, calls: int) -> None:
    for _ in range(calls):
        scope.admit(CALL).settle(Usage(1, 1))


def test_a_greedy_sibling_leaves_what_was_promised() -> None:
    with CREW.open():
        worker, greedy = WORKER.open(), GREEDY.open()
        use(greedy, 8)
        with pytest.raises(BudgetBusy):
            greedy.admit(CALL)
        use(worker, 2)
        with pytest.raises(BudgetExceeded):
            worker.admit(CALL)


def test_what_a_child_does_not_use_returns_when_it_closes() -> None:
    with CREW.open():
        greedy = GREEDY.open()
        with WORKER.open() as worker:
            use(worker, 1)
        use(greedy, 9)
        with pytest.raises(BudgetExceeded) as no:
            greedy.admit(CALL)
    assert no.value.meter == "turns"


def test_a_share_shrinks_as_the_child_uses_and_holds_it() -> None:
    with CREW.open() as crew:
        worker, greedy = WORKER.open(), GREEDY.open()
        use(worker, 1)
        held = worker.admit(CALL)
        use(greedy, 8)
        held.settle(Usage(1, 1))
        assert crew.spent.turns == 10


def test_a_child_may_use_more_than_its_share_while_there_is_room() -> None:
    with CREW.open(), WORKER.open() as worker:
        use(worker, 10)


def test_shares_that_do_not_fit_get_what_is_left() -> None:
    half = WORKER.replace(share=0.6)
    with CREW.open() as crew:
        first, second = half.open(), half.open()
        use(second, 4)
        with pytest.raises(BudgetBusy):
            second.admit(CALL)
        use(first, 6)
        assert crew.spent.turns == 10


def test_a_grandchild_draws_on_the_share_of_its_parent() -> None:
    with CREW.open(), WORKER.open(), GREEDY.open() as below:
        use(below, 10)


async def test_who_waits_for_a_share_is_woken_when_it_is_given_back() -> None:
    with CREW.replace(patience=30).open() as crew:
        worker, greedy = WORKER.open(), GREEDY.open()
        use(greedy, 8)
        waiting = asyncio.create_task(greedy.aadmit(CALL))
        async with asyncio.timeout(5):
            while not crew.account.waiters:
                await asyncio.sleep(0)
            worker.close()
            (await waiting).release()


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_is_a_fraction(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Budget("x", share=share)


def test_handles_of_one_account_have_one_share() -> None:
    with CREW.open():
        handles = [WORKER.open(id="shared"), WORKER.open(id="shared")]
        greedy = GREEDY.open()
        use(greedy, 8)
        with pytest.raises(BudgetBusy):
            greedy.admit(CALL)
        handles.pop().close()
        use(handles[0], 2)


def test_a_new_window_of_the_child_makes_its_share_no_larger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = ["2026-11-20T12"]
    monkeypatch.setattr(memory, "window_at", lambda kind, _: now[0] if kind else "")
    hourly = WORKER.replace(name="hourly", window="hour")
    with CREW.open():
        with hourly.open() as before:
            use(before, 3)
        child, greedy = hourly.open(), GREEDY.open()
        now[0] = "2026-11-20T13"
        assert child.spent.turns == 0
        use(greedy, 5)
        with pytest.raises(BudgetBusy):
            greedy.admit(CALL)
        use(child, 2)
