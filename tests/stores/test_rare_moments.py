"""Moments that come rarely: a reply that is overtaken, an interrupt, a finalizer in a command."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from budgetguard import Budget, Call, StoreUnavailableError, Usage, fail, spent, when
from budgetguard.forecast import FORECAST, Forecast
from budgetguard.stores.learning import Learning
from budgetguard.stores.link import close_links, link_to
from budgetguard.stores.protocol import Renew, Settle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from budgetguard.stores.protocol import Command, Reply

PLAIN = when(spent(1.0), fail())
CALL = Call("m", input_tokens=100, max_output_tokens=400)
USED = Usage(50, 400)
NOON = 1_795_219_200.0  # 2026-11-20T12:00Z


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    close_links()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'fleet.db'}"


def test_a_settlement_whose_reply_is_overtaken_counts_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = link_to(url)
    run, done, go_on = link.store.run, threading.Event(), threading.Event()

    def slow(command: Command) -> Reply:
        reply = run(command)
        if isinstance(command, Settle):
            done.set()
            go_on.wait(5)
        return reply

    monkeypatch.setattr(link.store, "run", slow)
    with Budget("b", tokens=1000, policy=PLAIN, store=url).open() as task:
        first = task.admit(CALL)
        settling = threading.Thread(target=first.settle, args=(USED,))
        settling.start()
        try:
            assert done.wait(5)
            task.refresh()
            assert task.spent.tokens == 450
            second = task.admit(CALL)  # 550 are left
        finally:
            go_on.set()
            settling.join()
        second.settle(USED)
        assert task.spent.tokens == 900
        assert task.held.tokens == 0


def test_what_others_learned_of_other_budgets_is_kept(url: str) -> None:
    store = link_to(url).store
    FORECAST.forget()
    try:
        for budget in ("research", "triage"):  # two services, one store
            FORECAST.forget()
            service = Learning(store)
            service.budgets.add(budget)
            service.begin()
            for _ in range(10):
                FORECAST.of(budget, "m", None).observe(100)
            service.note()
            service.keep()
    finally:
        FORECAST.forget()
    kept, known = Forecast(), store.load("forecast")
    assert known is not None
    kept.load(known)
    assert [len(kept.of(each, "m", None)) for each in ("research", "triage")] == [10, 10]


def test_calls_refused_in_an_outage_leave_nothing_to_deliver(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'missing' / 'fleet.db'}?timeout=0.05"
    link = link_to(url)
    budget = Budget("b", tokens=1000, policy=PLAIN, store=url, on_store_failure="local")
    with budget.open() as task:
        for _ in range(200):
            with pytest.raises(StoreUnavailableError):
                task.admit(CALL)
        assert link.undelivered < 10
    (tmp_path / "missing").mkdir()


def test_the_courier_survives_what_its_chores_meet(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = link_to(f"{url}?lease=0.3")
    run, met = link.store.run, threading.Event()

    def broken(command: Command) -> Reply:
        if isinstance(command, Renew) and not met.is_set():
            met.set()
            raise ValueError("a row that nobody can read")
        return run(command)

    monkeypatch.setattr(link.store, "run", broken)

    async def call() -> None:
        async with Budget("b", tokens=1000, policy=PLAIN, store=f"{url}?lease=0.3").open() as task:
            ticket = await task.aadmit(CALL)
            assert await asyncio.to_thread(met.wait, 5)
            await asyncio.sleep(0.1)
            ticket.settle(USED)
            await asyncio.wait_for(ticket.delivered(), 2)

    asyncio.run(call())


def test_an_interrupted_settlement_is_delivered_all_the_same(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = link_to(url)
    run = link.store.run
    interrupted: list[Command] = []

    def interrupt(command: Command) -> Reply:
        if isinstance(command, Settle) and not interrupted:
            interrupted.append(command)
            raise KeyboardInterrupt
        return run(command)

    monkeypatch.setattr(link.store, "run", interrupt)
    with Budget("b", tokens=1000, policy=PLAIN, store=url).open() as task:
        ticket = task.admit(CALL)
        with pytest.raises(KeyboardInterrupt):
            ticket.settle(USED)
        give_up = time.monotonic() + 2
        while link.undelivered and time.monotonic() < give_up:
            time.sleep(0.01)
        (balance,) = link.store.accounts()
        assert balance.settled[0] == 450


def test_a_stream_collected_while_leases_are_renewed_is_no_outage(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url += "?lease=0.3"
    link = link_to(url)
    run, done = link.store.run, threading.Event()

    with Budget("b", tokens=1000, policy=PLAIN, store=url).open() as task:
        ticket = task.admit(CALL)
        store: Any = link.store
        clock = store._clock

        def finalize() -> float:  # in the middle of a transaction
            if threading.current_thread().name == "budgetguard-courier" and not done.is_set():
                done.set()
                ticket.settle(USED)
            return clock()

        monkeypatch.setattr(store, "_clock", finalize)
        assert done.wait(5)
        time.sleep(0.6)
        assert link.outages == 0
        assert run is not None
        (balance,) = link.store.accounts()
        assert balance.settled[0] == 450


def test_leases_of_a_loop_end_with_it_in_older_windows_too(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = link_to(url)
    now = [NOON]
    monkeypatch.setattr(link.store, "_clock", lambda: now[0])
    call = Call("m", input_tokens=10, max_output_tokens=10, loop=("agent",))
    with Budget("b", tokens=100_000, window="hour", store=url).open() as task:
        task.admit(call).settle(Usage(10, 10))
        now[0] += 3600
        task.refresh()
        task.admit(call).settle(Usage(10, 10), ends_loop=True)
    assert not link.leases._loops


def test_what_ends_after_the_connection_was_closed_is_delivered(url: str) -> None:
    async def call() -> None:
        async with Budget("b", tokens=1000, policy=PLAIN, store=url).open() as task:
            ticket = await task.aadmit(CALL)
            close_links()
            ticket.settle(USED)
            await asyncio.wait_for(ticket.delivered(), 2)

    asyncio.run(call())
    (balance,) = link_to(url).store.accounts()
    assert balance.settled[0] == 450


async def test_a_cell_of_a_notebook_finds_the_room_that_its_last_call_gave_back(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = link_to(url)
    run = link.store.run

    def slow(command: Command) -> Reply:
        if isinstance(command, Settle):
            time.sleep(0.03)
        return run(command)

    monkeypatch.setattr(link.store, "run", slow)
    with Budget("b", tokens=900, policy=PLAIN, store=url).open() as task:
        for _ in range(3):
            task.admit(CALL).settle(Usage(50, 50))
        assert task.spent.tokens == 300


def _settle_at_the_end(url: str) -> None:
    async def call() -> None:
        async with Budget("b", tokens=1000, policy=PLAIN, store=url).open(id="1") as task:
            ticket = await task.aadmit(CALL)
            run = link_to(url).store.run

            def slow(command: Command) -> Reply:
                time.sleep(0.2)
                return run(command)

            link_to(url).store.run = slow  # type: ignore[method-assign]
            ticket.settle(USED)

    asyncio.run(call())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_delivers_what_is_left_before_it_ends(url: str, method: str) -> None:
    process: Any = multiprocessing.get_context(method)
    child = process.Process(target=_settle_at_the_end, args=(url,))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    (balance,) = link_to(url).store.accounts()
    assert balance.settled[0] == 450
