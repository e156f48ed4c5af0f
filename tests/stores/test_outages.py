"""A store that is out of reach: calls are refused or a part is allowed, and nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from budgetguard import Budget, BudgetGuardError, Call, Usage, fail, observe, spent, when
from budgetguard.errors import StoreUnavailableError
from budgetguard.spend import ZERO
from budgetguard.stores import link as links
from budgetguard.stores.courier import FLUSH_S
from budgetguard.stores.link import close_links, link_to
from budgetguard.stores.memory import STORE
from tests.stores.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from budgetguard import Scope, Ticket

PLAIN = when(spent(1.0), fail())
ONE = Call("m", input_tokens=10, max_output_tokens=10)
USED = Usage(5, 5)
TIMEOUT_S = 0.2


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch: pytest.MonkeyPatch, server: Any) -> Iterator[None]:
    monkeypatch.setattr(links, "QUIET_S", 0.1)
    STORE.in_flight.clear()  # what other tests of the core left in the air
    yield
    left = set(STORE.in_flight)
    close_links()
    assert left == set()


@pytest.fixture
def server(durable_redis: Any) -> Any:
    return durable_redis


@pytest.fixture
def budget(server: Any) -> Callable[..., Budget]:
    """Make a Budget in that server."""

    def make(**fields: Any) -> Budget:
        store = f"{server.url}?timeout={TIMEOUT_S}"
        return Budget("order", **{"policy": PLAIN, "store": store, "turns": 100, **fields})

    return make


def is_settled(scope: Scope, turns: int) -> bool:
    """Whether the store knows of so many turns, and neither it nor the mirror of anything held."""
    try:
        scope.refresh()
    except StoreUnavailableError:
        return False
    known = [each for each in scope.account.link.store.accounts() if each.epoch]
    assert all(each.settled[4] <= turns for each in known), "delivered more than once"
    if sum(each.settled[4] for each in known) != turns or any(any(b.held) for b in known):
        return False
    return scope.account._unconfirmed == (ZERO, ZERO)


def test_while_the_store_is_gone_calls_are_refused_quickly_and_alike(budget, server):
    with budget().open(id="1") as scope:
        scope.admit(ONE).settle(USED)
        server.stop()
        for _ in range(20):
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError) as refused:
                scope.admit(ONE)
            assert time.monotonic() - started < 1
            assert isinstance(refused.value, BudgetGuardError)
        with pytest.raises(StoreUnavailableError):
            scope.refresh()
        with pytest.raises(StoreUnavailableError):
            scope.extend(turns=5)
        assert scope.counts.in_flight == 0
        server.start()
        assert eventually(lambda: is_settled(scope, 1))
        scope.admit(ONE).settle(USED)
    assert eventually(lambda: is_settled(scope, 2))


def test_a_store_that_says_nothing_is_waited_for_a_few_timeouts_at_most(budget, server):
    with budget().open(id="1") as scope:
        scope.admit(ONE).settle(USED)
        with server.paused():
            started = time.monotonic()
            with ThreadPoolExecutor(20) as pool:
                errors = [pool.submit(scope.admit, ONE).exception for _ in range(20)]
                assert all(isinstance(each(10), StoreUnavailableError) for each in errors)
            assert time.monotonic() - started < 10 * TIMEOUT_S
        assert eventually(lambda: is_settled(scope, 1))


def test_a_scope_that_opens_during_an_outage_works_once_it_is_over(budget, server):
    server.stop()
    with budget().open(id="1") as scope:
        with pytest.raises(StoreUnavailableError):
            scope.admit(ONE)
        server.start()
        assert eventually(lambda: is_settled(scope, 0))
        scope.admit(ONE).settle(USED)
    assert eventually(lambda: is_settled(scope, 1))


@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_what_ends_during_an_outage_is_delivered_once_and_in_order(how, budget, server):
    delivered: list[str] = []
    with budget().open(id="1") as scope:
        tickets = [scope.admit(ONE) for _ in range(5)]
        store = scope.account.link.store
        run = store.run

        def noted(command: Any) -> Any:
            reply = run(command)
            if type(command).__name__ in {"Settle", "Release"}:
                delivered.append(command.id)
            return reply

        store.run = noted
        ids = [each.held._id for each in tickets]
        if how == "stopped":
            server.stop()
            end_all(tickets)
            server.start()
        else:
            with server.paused():
                end_all(tickets)
        assert scope.spent.turns == 4
        assert eventually(lambda: is_settled(scope, 4))
        assert delivered == ids
        assert scope.counts == (5, 4, 1)


def end_all(tickets: list[Ticket]) -> None:
    started = time.monotonic()
    for each in tickets[:4]:
        each.settle(USED)
    tickets[4].release()
    assert time.monotonic() - started < 10 * TIMEOUT_S


def test_alone_a_tenth_of_what_was_left_is_allowed(budget, server):
    with budget(on_store_failure="local").open(id="1") as scope:
        for _ in range(50):
            scope.admit(ONE).settle(USED)
        scope.refresh()
        server.stop()
        for _ in range(5):  # of the 50 turns that were left
            scope.admit(ONE).settle(USED)
        with pytest.raises(StoreUnavailableError, match="used up"):
            scope.admit(ONE)
        assert scope.spent.turns == 55
        assert scope.held.turns == 0
        server.start()
        assert eventually(lambda: is_settled(scope, 55))
        assert (scope.spent.turns, scope.held.turns) == (55, 0)
        scope.admit(ONE).settle(USED)
    assert eventually(lambda: is_settled(scope, 56))


def test_fifty_threads_alone_share_the_part_that_is_allowed(budget, server):
    with budget(on_store_failure="local").open(id="1") as scope:
        scope.refresh()
        server.stop()

        def one(_: int) -> bool:
            try:
                scope.admit(ONE).settle(USED)
            except StoreUnavailableError:
                return False
            return True

        with ThreadPoolExecutor(50) as pool:
            assert sum(pool.map(one, range(50))) == 10
        server.start()
        assert eventually(lambda: is_settled(scope, 10))


def test_what_is_released_alone_is_free_again(budget, server):
    with budget(on_store_failure="local").open(id="1") as scope:
        scope.refresh()
        server.stop()
        for _ in range(30):
            scope.admit(ONE).release()
        assert (scope.held.turns, scope.counts.in_flight) == (0, 0)
        server.start()
        assert eventually(lambda: is_settled(scope, 0))


def test_a_part_is_allowed_anew_in_the_next_outage_and_not_more(budget, server):
    with budget(on_store_failure="local").open(id="1") as scope:
        scope.refresh()
        server.stop()
        tickets = [scope.admit(ONE) for _ in range(10)]
        server.start()
        assert eventually(lambda: is_settled(scope, 0) or not scope.account.link._failed)
        for each in tickets:
            each.settle(USED)
        assert eventually(lambda: is_settled(scope, 10))
        server.stop()
        for _ in range(9):  # of the 90 turns that were left
            scope.admit(ONE).settle(USED)
        with pytest.raises(StoreUnavailableError):
            scope.admit(ONE)
        server.start()
        assert eventually(lambda: is_settled(scope, 19))


def test_every_budget_must_allow_a_part(budget, server):
    strict, lenient = budget(), budget(on_store_failure="local").replace(name="part")
    with strict.open(id="1") as outer, lenient.open(id="2") as inner:
        inner.refresh()
        server.stop()
        with pytest.raises(StoreUnavailableError):
            inner.admit(ONE)
        assert outer.held.turns == inner.held.turns == 0
        assert inner.counts.in_flight == 0
        server.start()


def test_what_one_budget_does_not_allow_is_not_counted_in_another(budget, server):
    wide = budget(on_store_failure="local", turns=100)
    narrow = budget(on_store_failure="local", turns=10).replace(name="part")
    with wide.open(id="1") as outer:
        with narrow.open(id="2") as inner:
            inner.refresh()
            server.stop()
            inner.admit(ONE).settle(USED)
            for _ in range(20):
                with pytest.raises(StoreUnavailableError):
                    inner.admit(ONE)
        for _ in range(9):
            outer.admit(ONE).settle(USED)
        with pytest.raises(StoreUnavailableError):
            outer.admit(ONE)
        server.start()
        assert eventually(lambda: outer.account.link._failed is False)
        outer.refresh()
        assert outer.spent.turns == 10


def test_what_is_observed_is_never_refused(budget, server):
    with budget(policy=observe(PLAIN), turns=1).open(id="1") as scope:
        scope.refresh()
        server.stop()
        for _ in range(5):
            scope.admit(ONE).settle(USED)
        server.start()
        assert eventually(lambda: is_settled(scope, 5))


@pytest.mark.parametrize("failure", ["refuse", "local"])
@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_an_outage_does_not_block_the_event_loop(how, failure, budget, server):
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.005)

    async def outage(scope: Scope, tickets: list[Ticket]) -> None:
        for each in tickets:
            each.settle(USED)
        results = await asyncio.gather(
            *(scope.aadmit(ONE) for _ in range(20)), return_exceptions=True
        )
        for each in results:
            if isinstance(each, BaseException):
                assert type(each) is StoreUnavailableError
            else:
                each.settle(USED)
                await each.delivered()
        assert sum(isinstance(each, StoreUnavailableError) for each in results) >= 11
        for each in tickets:
            await each.delivered()

    with budget(on_store_failure=failure).open(id="1") as scope:
        tickets = [await scope.aadmit(ONE) for _ in range(3)]
        ticking = asyncio.create_task(tick())
        async with asyncio.timeout(20 * TIMEOUT_S):
            if how == "stopped":
                server.stop()
                await outage(scope, tickets)
            else:
                with server.paused():
                    await outage(scope, tickets)
        ticking.cancel()
        if how == "stopped":
            await asyncio.to_thread(server.start)
        settled = scope.spent.turns
        assert settled >= 3
        assert await asyncio.to_thread(eventually, lambda: is_settled(scope, settled))
    gaps = [after - before for before, after in itertools.pairwise(ticks)]
    assert max(gaps) < 0.15


async def test_who_waits_for_a_delivery_waits_for_no_outage_to_end(budget, server):
    with budget().open(id="1") as scope:
        tickets = [await scope.aadmit(ONE) for _ in range(5)]
        server.stop()
        async with asyncio.timeout(10 * TIMEOUT_S):
            for each in tickets:
                each.settle(USED)
            await asyncio.gather(*(each.delivered() for each in tickets))
        await asyncio.to_thread(server.start)
        assert await asyncio.to_thread(eventually, lambda: is_settled(scope, 5))


def test_a_waiting_admission_is_refused_when_the_store_goes(budget, server):
    with budget(turns=1, patience=20).open(id="1") as scope:
        ticket = scope.admit(ONE)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(scope.admit, ONE)
            assert eventually(lambda: scope.account.waiters)
            server.stop()
            assert isinstance(second.exception(5), StoreUnavailableError)
        ticket.settle(USED)
        server.start()
        assert eventually(lambda: is_settled(scope, 1))


_EXITS = """
import os, signal, sys, time
from budgetguard import Budget, Call, Usage
with Budget("order", turns=9, store=sys.argv[1]).open(id="1") as scope:
    tickets = [scope.admit(Call("m")) for _ in range(3)]
    os.kill(int(sys.argv[2]), signal.SIGSTOP)
    for ticket in tickets:
        ticket.settle(Usage(1, 1))
print(time.monotonic())
"""


def test_a_process_ends_soon_with_what_it_could_not_deliver(budget, server):
    store = budget().store
    pid = server._process.pid
    try:
        done = subprocess.run(
            [sys.executable, "-c", _EXITS, store, str(pid)],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        assert time.monotonic() - float(done.stdout) < FLUSH_S + 1.5
        assert "3 settlement(s) were not delivered" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        os.kill(pid, signal.SIGCONT)


def test_closing_ends_the_threads(budget, server):
    with budget().open(id="1") as scope:
        scope.admit(ONE).settle(USED)
        assert link_to(budget().store).store is scope.account.link.store
    close_links()
    assert eventually(
        lambda: not [each for each in threading.enumerate() if "budgetguard" in each.name]
    )


def test_an_outage_and_its_end_are_logged_once(budget, server, caplog):
    with budget(on_store_failure="local").open(id="1") as scope:
        scope.admit(ONE).settle(USED)
        server.stop()
        for _ in range(3):
            scope.admit(ONE).settle(USED)
        server.start()
        assert eventually(lambda: is_settled(scope, 4))
    logged = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len([each for each in logged if "is out of reach" in each]) == 1
    assert len([each for each in logged if "is in reach again" in each]) == 1


def test_an_error_right_after_a_failure_still_says_why(budget, server):
    with budget().open(id="1") as scope:
        scope.admit(ONE).settle(USED)
        server.stop()
        said = []
        for _ in range(2):
            with pytest.raises(StoreUnavailableError) as no:
                scope.admit(ONE)
            said.append(no.value.why)
    assert said[1] == f"{said[0]}, a moment ago"
