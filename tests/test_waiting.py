"""Waiting for calls in flight: fair, bounded, cancellable, in threads and in tasks alike."""

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable

import pytest

from budgetguard import (
    Budget,
    BudgetBusy,
    BudgetExceeded,
    Call,
    Scope,
    ScopeClosed,
    Ticket,
    Usage,
    current_scope,
    fail,
    spent,
    when,
)

PLAIN = when(spent(1.0), fail())
ONE = Call("m", input_tokens=100, max_output_tokens=100)
"""Under `tokens=200`, one such call holds everything."""


def narrow(**changes: object) -> Budget:
    return Budget("b", tokens=200, policy=PLAIN).replace(**changes)


def waiting(scope: Scope, count: int) -> None:
    """Return once that many admissions are queued."""
    give_up = time.monotonic() + 10
    while len(scope.account.waiters or ()) < count:
        assert time.monotonic() < give_up
        time.sleep(0.0005)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_what_is_only_held_is_waited_for_and_what_is_left_is_used() -> None:
    with narrow().open() as scope:
        first = scope.admit(ONE)
        got: list[Ticket] = []
        thread = in_thread(lambda: got.append(scope.admit(ONE)))
        waiting(scope, 1)
        first.settle(Usage(50, 10))
        thread.join(10)
        assert got[0].plan.max_output_tokens == 40
        got[0].settle(Usage(100, 40))
    assert scope.spent.tokens == 200


def test_threads_are_served_in_the_order_they_came() -> None:
    with narrow().open() as scope:
        ticket = scope.admit(ONE)
        order: list[int] = []

        def work(number: int) -> None:
            mine = scope.admit(ONE)
            order.append(number)
            mine.settle(Usage(0, 1))

        threads: list[threading.Thread] = []
        for number in range(8):
            threads.append(in_thread(lambda number=number: work(number)))
            waiting(scope, number + 1)
        ticket.settle(Usage(0, 1))
        for thread in threads:
            thread.join(10)
    assert order == [0, 1, 2, 3, 4, 5, 6, 7]


async def test_tasks_and_threads_share_one_queue() -> None:
    with narrow().open() as scope:
        ticket = await scope.aadmit(ONE)
        order: list[str] = []

        async def in_task(name: str) -> None:
            mine = await scope.aadmit(ONE)
            order.append(name)
            mine.settle(Usage(0, 1))

        def threaded() -> None:
            mine = scope.admit(ONE)
            order.append("thread")
            mine.settle(Usage(0, 1))

        first = asyncio.create_task(in_task("first"))
        await asyncio.sleep(0)
        second = asyncio.create_task(asyncio.to_thread(threaded))
        while len(scope.account.waiters or ()) < 2:
            await asyncio.sleep(0.001)
        third = asyncio.create_task(in_task("third"))
        await asyncio.sleep(0)
        ticket.settle(Usage(0, 1))
        await asyncio.wait_for(asyncio.gather(first, second, third), 10)
    assert order == ["first", "thread", "third"]


async def test_a_waiting_task_blocks_neither_the_event_loop_nor_other_scopes() -> None:
    with narrow().open() as scope:
        ticket = await scope.aadmit(ONE)
        task = asyncio.create_task(scope.aadmit(ONE))
        await asyncio.sleep(0)
        assert len(scope.account.waiters or ()) == 1
    with narrow().open() as other:
        (await other.aadmit(ONE)).settle(Usage(1, 1))
    ticket.settle(Usage(1, 1))
    with pytest.raises(ScopeClosed):
        await task


async def test_a_cancelled_waiter_leaves_the_queue_to_the_next() -> None:
    with narrow().open() as scope:
        ticket = await scope.aadmit(ONE)
        first = asyncio.create_task(scope.aadmit(ONE))
        await asyncio.sleep(0)
        second = asyncio.create_task(scope.aadmit(ONE))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len(scope.account.waiters or ()) == 1
        ticket.settle(Usage(1, 1))
        (await asyncio.wait_for(second, 10)).settle(Usage(1, 1))
    assert scope.counts.in_flight == 0


def test_patience_0_refuses_at_once_and_closes_nothing() -> None:
    with narrow(patience=0).open() as scope:
        ticket = scope.admit(ONE)
        with pytest.raises(BudgetBusy, match="patience") as busy:
            in_other_thread(lambda: scope.admit(ONE))
        assert (busy.value.meter, busy.value.held, busy.value.limit) == ("tokens", 200, 200)
        ticket.settle(Usage(1, 1))
        scope.admit(ONE).settle(Usage(1, 1))
    assert scope.outcome == "refused"
    assert scope.spent.turns == 2


async def test_patience_is_bounded_for_a_task_too() -> None:
    with narrow(patience=0.02).open() as scope:
        ticket = await scope.aadmit(ONE)
        task = asyncio.create_task(scope.aadmit(ONE))
        with pytest.raises(BudgetBusy, match=r"patience of 0\.02 s"):
            await task
        ticket.settle(Usage(1, 1))


def test_what_could_never_be_served_is_refused_at_once() -> None:
    with narrow(patience=60).open() as scope:
        scope.admit(ONE)
        with pytest.raises(BudgetExceeded) as refusal:
            scope.admit(Call("m", input_tokens=300))
    assert not isinstance(refusal.value, BudgetBusy)


async def test_a_sync_call_that_would_stop_the_event_loop_is_refused_at_once() -> None:
    with narrow().open() as scope:
        ticket = await asyncio.to_thread(scope.admit, ONE)
        with pytest.raises(BudgetBusy, match="event loop"):
            scope.admit(ONE)
        ticket.settle(Usage(1, 1))


def test_a_call_that_waits_for_its_own_thread_is_refused_at_once() -> None:
    with narrow().open() as scope:
        ticket = scope.admit(ONE)
        with pytest.raises(BudgetBusy, match="itself holds"):
            scope.admit(ONE)
        ticket.settle(Usage(1, 1))


async def test_a_call_that_waits_for_its_own_task_is_refused_at_once() -> None:
    with narrow().open() as scope:
        ticket = await scope.aadmit(ONE)
        with pytest.raises(BudgetBusy, match="itself holds"):
            await scope.aadmit(ONE)
        ticket.settle(Usage(1, 1))


def test_a_release_wakes_the_queue_as_a_settlement_does() -> None:
    with narrow().open() as scope:
        first = scope.admit(ONE)
        got: list[Ticket] = []
        thread = in_thread(lambda: got.append(scope.admit(ONE)))
        waiting(scope, 1)
        first.release()
        thread.join(10)
        got[0].settle(Usage(1, 1))


def test_the_queue_belongs_to_the_outermost_scope_that_lacks_room() -> None:
    with narrow().open() as parent:
        with Budget("roomy", tokens=100_000, policy=PLAIN).open() as child:
            ticket = child.admit(ONE)
            got: list[Ticket] = []
            thread = in_thread(lambda: got.append(child.admit(ONE)))
            waiting(parent, 1)
            assert not child.account.waiters
            ticket.settle(Usage(0, 1))
            thread.join(10)
            got[0].settle(Usage(0, 1))


def test_a_policy_is_asked_anew_on_every_wake() -> None:
    policy = when(spent(0.5), fail())
    with Budget("b", tokens=400, policy=policy).open() as scope:
        first = scope.admit(Call("m", input_tokens=200, max_output_tokens=100))
        errors: list[BudgetExceeded] = []

        def work() -> None:
            try:
                scope.admit(Call("m", input_tokens=150, max_output_tokens=50))
            except BudgetExceeded as error:
                errors.append(error)

        thread = in_thread(work)
        waiting(scope, 1)
        first.settle(Usage(200, 20))
        thread.join(10)
    assert "policy" in str(errors[0])


@pytest.mark.parametrize("threads", [50])
def test_of_50_threads_on_10_turns_exactly_10_are_admitted(threads: int) -> None:
    with Budget("b", turns=10).open() as scope:
        start = threading.Barrier(threads)
        admitted: list[Ticket] = []
        refused: list[BudgetExceeded] = []

        def work() -> None:
            start.wait()
            with scope.activate():
                assert current_scope() is scope
                try:
                    ticket = scope.admit(ONE)
                except BudgetExceeded as error:
                    refused.append(error)
                else:
                    admitted.append(ticket)
                    ticket.settle(Usage(100, 10))

        workers = [in_thread(work) for _ in range(threads)]
        for worker in workers:
            worker.join(20)
    assert (len(admitted), len(refused), scope.spent.turns) == (10, 40, 10)


async def test_who_holds_a_ticket_passes_the_queue_of_those_who_wait_for_him() -> None:
    with Budget("b", tokens=1_000, policy=PLAIN).open() as scope:
        stream = await scope.aadmit(Call("m", max_output_tokens=500))
        big = Call("m", input_tokens=600, max_output_tokens=32)
        waiting_for_me = asyncio.create_task(scope.aadmit(big))
        await asyncio.sleep(0)
        small = await scope.aadmit(Call("m", input_tokens=10, max_output_tokens=40))
        small.settle(Usage(0, 1))
        stream.settle(Usage(0, 1))
        (await waiting_for_me).settle(Usage(0, 1))


def test_a_waiter_whose_event_loop_stopped_stands_in_nobodys_way() -> None:
    with narrow(patience=0.05).open() as scope:
        first = scope.admit(ONE)
        loop = asyncio.new_event_loop()
        task = loop.create_task(scope.aadmit(ONE))
        loop.run_until_complete(asyncio.sleep(0))
        assert len(scope.account.waiters or ()) == 1
        first.settle(Usage(0, 1))
        give_up = time.monotonic() + 0.1
        while time.monotonic() < give_up:
            pass
        scope.admit(ONE._replace(max_output_tokens=40)).settle(Usage(0, 1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()


def in_other_thread(work: Callable[[], object]) -> None:
    """Run it in a thread of its own and raise here what it raises there."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    in_thread(run).join(10)
    if raised:
        raise raised[0]


def _admit_after_fork(scope: Scope, answers: "multiprocessing.Queue[str]") -> None:
    try:
        scope.admit(ONE)
    except ScopeClosed as error:
        answers.put(str(error))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork"
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_an_in_memory_scope_says_that_it_is_closed() -> None:
    context = multiprocessing.get_context("fork")
    with narrow().open() as scope:
        answers = context.Queue()
        process = context.Process(target=_admit_after_fork, args=(scope, answers))
        process.start()
        assert "fork" in answers.get(timeout=10)
        process.join(10)
        scope.admit(ONE).settle(Usage(1, 1))
