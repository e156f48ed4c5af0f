"""Budgets whose account is in a store do what those in memory do; each test runs with each store.

Where a test needs a second worker, it opens the same account over another spelling of the URL:
that is another connection with a mirror of its own, as another process would have.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import secrets
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from budgetguard import (
    Budget,
    BudgetBusy,
    BudgetExceeded,
    BudgetGuardError,
    Call,
    Plan,
    Scope,
    ScopeClosed,
    State,
    Ticket,
    Usage,
    events,
    fail,
    observe,
    spent,
    when,
)
from budgetguard.current import enter_tool, leave_tool
from budgetguard.spend import ZERO
from budgetguard.stores import memory
from budgetguard.stores.link import close_links, link_to
from budgetguard.stores.memory import STORE
from tests.stores.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from budgetguard.stores.protocol import Balance

PLAIN = when(spent(1.0), fail())
ONE = Call("m", input_tokens=100, max_output_tokens=100)
"""Under `tokens=200`, one such call holds everything."""
USED = Usage(50, 50)
NOON = 1_795_219_200.0  # 2026-11-20T12:00Z


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    STORE.in_flight.clear()  # what other tests of the core left in the air
    yield
    left = set(STORE.in_flight)
    close_links()
    assert left == set()


@pytest.fixture
def tenant() -> str:
    """A partition that no other test uses."""
    return secrets.token_hex(4)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'fleet.db'}"


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Each place for an account."""
    return None if request.param == "memory" else request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=["sqlite", "redis"])
def shared(request: pytest.FixtureRequest) -> str:
    """Each shared store."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def account(url: str | None, tenant: str) -> Callable[..., Budget]:
    """Make a Budget with that store."""

    def make(**fields: Any) -> Budget:
        return Budget("order", **{"policy": PLAIN, "store": url, "tenant": tenant, **fields})

    return make


def twin(url: str | None) -> str | None:
    """The same store over a connection of its own, as another process has it."""
    return None if url is None else f"{url}?timeout=4"


@contextmanager
def side_by_side(*budgets: Budget) -> Iterator[list[Scope]]:
    """A handle of each with the id 1, none below another."""
    scopes = [each.open(id="1") for each in budgets]
    yield scopes
    for each in scopes:
        each.close()


def waiting(scope: Scope, count: int) -> None:
    """Return once that many admissions are queued."""
    assert eventually(lambda: len(scope.account.waiters or ()) >= count)


async def awaiting(scope: Scope, count: int) -> None:
    async with asyncio.timeout(10):
        while len(scope.account.waiters or ()) < count:
            await asyncio.sleep(0.001)


def balances(budget: Budget) -> list[Balance]:
    """What the store itself knows of that tenant."""
    assert budget.store is not None
    return link_to(budget.store).store.accounts(budget.tenant)


def is_quiet(scope: Scope, *budgets: Budget) -> bool:
    """Whether nothing is held or reserved: here, in the mirror, and in the store."""
    scope.refresh()
    account = scope.account
    if any((*account.held, *account.elsewhere)) or account.reserves or account.waiters:
        return False
    if account.shared and account._unconfirmed != (ZERO, ZERO):
        return False
    shared = [each for each in (scope.budget, *budgets) if each.store is not None]
    known = [balance for each in shared for balance in balances(each)]
    return not any(any((*each.held, *each.reserved)) for each in known)


def test_fifty_threads_share_ten_turns(account):
    budget = account(turns=10)
    start = threading.Barrier(50)

    def one(_: int) -> BudgetExceeded | None:
        with budget.open(id="1") as scope:
            start.wait(10)
            try:
                scope.admit(ONE).settle(USED)
            except BudgetExceeded as error:
                return error
        return None

    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(one, range(50)))
    assert results.count(None) == 10
    with budget.open(id="1") as scope:
        scope.refresh()
        assert scope.spent.turns == 10
        assert scope.spent.tokens == 1_000
        assert eventually(lambda: is_quiet(scope))


async def test_fifty_tasks_share_ten_turns(account):
    budget = account(turns=10)

    async def one() -> BudgetExceeded | None:
        with budget.open(id="1") as scope:
            try:
                ticket = await scope.aadmit(ONE)
            except BudgetExceeded as error:
                return error
            await asyncio.sleep(0)
            ticket.settle(USED)
            await ticket.delivered()
        return None

    async with asyncio.timeout(20):
        results = await asyncio.gather(*[one() for _ in range(50)])
    assert results.count(None) == 10
    with budget.open(id="1") as scope:
        await scope.arefresh()
        assert scope.spent.turns == 10
        assert await asyncio.to_thread(eventually, lambda: is_quiet(scope))


def test_two_workers_share_ten_turns(account, url):
    budgets = [account(turns=10), account(turns=10, store=twin(url))]
    start = threading.Barrier(20)

    def one(number: int) -> bool:
        with budgets[number % 2].open(id="1") as scope:
            start.wait(10)
            try:
                scope.admit(ONE).settle(USED)
            except BudgetExceeded:
                return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(one, range(20))) == 10


def test_two_handles_of_one_id_share_an_account_and_each_knows_its_own(account):
    budget = account(turns=5)
    with budget.open(id="1") as one:
        one.admit(ONE).settle(Usage(1, 2))
    with budget.open(id="1") as other:
        other.admit(ONE).settle(Usage(10, 20))
        other.refresh()
        assert (other.spent.turns, other.spent.tokens) == (2, 33)
        assert (other.own.turns, other.own.tokens) == (1, 30)
        assert other.remaining.turns == 3
    assert (one.own.tokens, one.spent.tokens) == (3, 33)


def test_accounts_of_other_ids_tenants_and_names_are_apart(account, tenant):
    budget = account(turns=1)
    others = [budget.replace(tenant=f"{tenant}x"), budget.replace(name="other")]
    with budget.open(id="1") as scope:
        scope.admit(ONE).settle(USED)
    for each in (budget.open(id="2"), *(other.open(id="1") for other in others), budget.open()):
        with each:
            each.admit(ONE).settle(USED)
            assert each.spent.turns == 1


def test_a_parent_spends_its_own_and_what_its_children_spend(account, sqlite_url, tenant):
    parent, memory_child = account(turns=10), Budget("memory", turns=5, policy=PLAIN)
    file_child = Budget("file", turns=5, policy=PLAIN, store=sqlite_url, tenant=f"{tenant}f")
    with parent.open(id="1") as task:
        task.admit(ONE).settle(Usage(1, 0))
        with memory_child.open() as one:
            one.admit(ONE).settle(Usage(10, 0))
            with file_child.open(id="f") as two:
                two.admit(ONE).settle(Usage(100, 0))
        task.refresh()
        assert task.spent.tokens == 111
        assert task.own.tokens + one.own.tokens + two.own.tokens == 111
        assert (one.spent.tokens, two.spent.tokens) == (110, 100)
        assert eventually(lambda: is_quiet(task, file_child))


@pytest.mark.parametrize("narrow", [0, 1, 2])
def test_a_refusal_names_the_outermost_that_lacks_room_and_leaves_nothing_held(
    narrow, account, sqlite_url, tenant
):
    turns = [1 if index >= narrow else 9 for index in range(3)]
    parent, memory_child = account(turns=turns[0]), Budget("memory", turns=turns[1], policy=PLAIN)
    file_child = Budget("file", turns=turns[2], policy=PLAIN, store=sqlite_url, tenant=f"{tenant}f")
    with parent.open(id="1") as task, memory_child.open() as one, file_child.open(id="f") as two:
        two.admit(ONE).settle(USED)
        with pytest.raises(BudgetExceeded) as refused:
            two.admit(ONE)
        assert refused.value.budget == ["order", "memory", "file"][narrow]
        assert (refused.value.meter, refused.value.used, refused.value.limit) == ("turns", 1, 1)
        for each in (task, one, two):
            assert each.counts.in_flight == 0
            assert each.held.turns == 0
            assert each.spent.turns == 1
        assert eventually(lambda: is_quiet(task, file_child))


def test_room_that_another_worker_took_in_the_inner_store_leaves_nothing_held_in_the_outer(
    account, shared, tenant
):
    outer = account(turns=9)
    inner = Budget("inner", turns=1, policy=PLAIN, store=shared, tenant=f"{tenant}i")
    with outer.open(id="1") as task, inner.open(id="i") as scope:
        scope.refresh()
        with inner.replace(store=twin(shared)).open(id="i", shield=True) as elsewhere:
            elsewhere.admit(ONE).settle(USED)
        with pytest.raises(BudgetExceeded) as refused:
            scope.admit(ONE)
        assert refused.value.budget == "inner"
        assert task.held.turns == 0
        assert task.counts.in_flight == 0
        assert eventually(lambda: is_quiet(task, inner))
        assert is_quiet(scope)


def test_two_agent_loops_in_two_handles_each_get_their_last_call(account):
    budget = account(turns=4, policy=Budget("b").policy, answer_tokens=10)
    one, other = budget.open(id="1"), budget.open(id="1")
    a, b = ONE._replace(loop=("a",)), ONE._replace(loop=("b",))
    first, second = one.admit(a), other.admit(b)
    first.settle(USED)
    second.settle(USED)
    for scope, call in ((one, a), (other, b)):
        last = scope.admit(call)
        assert last.plan.final
        last.settle(USED, ends_loop=True)
    with budget.open(id="1") as scope:
        scope.refresh()
        assert scope.spent.turns == 4
    one.close()
    other.close()
    assert eventually(lambda: is_quiet(scope))


def test_two_agent_loops_in_two_workers_each_get_their_last_call(account, url):
    budget = account(turns=4, policy=Budget("b").policy, answer_tokens=10)
    with side_by_side(budget, budget.replace(store=twin(url))) as (one, other):
        a, b = ONE._replace(loop=("a",)), ONE._replace(loop=("b",))
        one.admit(a).settle(USED)
        other.admit(b).settle(USED)
        for scope, call in ((one, a), (other, b)):
            last = scope.admit(call)
            assert last.plan.final
            last.settle(USED, ends_loop=True)
    assert eventually(lambda: is_quiet(one))


def test_what_loops_of_other_workers_keep_back_is_refused_at_once(account, url):
    budget = account(turns=2, policy=Budget("b").policy, answer_tokens=10)
    with side_by_side(budget, budget.replace(store=twin(url))) as (one, other):
        one.admit(ONE._replace(loop=("a",))).settle(USED)
        started = time.monotonic()
        with pytest.raises(BudgetExceeded) as refused:
            other.admit(ONE)
        assert not isinstance(refused.value, BudgetBusy)
        assert time.monotonic() - started < 5
        last = one.admit(ONE._replace(loop=("a",)))
        assert last.plan.final
        last.settle(USED, ends_loop=True)


def test_a_released_last_call_is_owed_again_in_the_store_too(account, url):
    budget = account(turns=2, policy=Budget("b").policy, answer_tokens=10)
    call = ONE._replace(loop=("a",))
    with side_by_side(budget, budget.replace(store=twin(url))) as (scope, other):
        scope.admit(call).settle(USED)
        last = scope.admit(call)
        assert last.plan.final
        last.release()
        with pytest.raises(BudgetExceeded):
            other.admit(ONE)
        again = scope.admit(call)
        assert again.plan.final
        again.settle(USED, ends_loop=True)
        with pytest.raises(BudgetExceeded):
            scope.admit(call)
    assert scope.spent.turns == 2
    assert eventually(lambda: is_quiet(scope))


@pytest.mark.parametrize("how", ["close", "end_loop"])
def test_a_loop_that_is_over_keeps_nothing_back(how, account, url):
    budget = account(turns=2, policy=Budget("b").policy, answer_tokens=10)
    scope = budget.open(id="1")
    scope.admit(ONE._replace(loop=("a",))).settle(USED)
    if url is not None:
        assert balances(budget)[0].reserved[4] == 1
    scope.close() if how == "close" else scope.end_loop("a")
    with budget.open(id="1") as other:  # at once: what was kept back is not waited for in vain
        other.admit(ONE).settle(USED)
    scope.close()
    assert eventually(lambda: is_quiet(scope))


@pytest.mark.parametrize("how", ["settle", "release"])
def test_a_thread_waits_for_what_another_handle_holds(how, account):
    budget = account(tokens=200)
    with side_by_side(budget, budget) as (one, other):
        first = one.admit(ONE)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(other.admit, ONE)
            waiting(other, 1)
            first.settle(Usage()) if how == "settle" else first.release()
            ticket = second.result(10)
        ticket.settle(USED)
    assert other.spent.tokens == 100
    assert eventually(lambda: is_quiet(other))


async def test_a_task_waits_for_what_a_thread_holds(account):
    budget = account(tokens=200)
    with side_by_side(budget, budget) as (one, other):
        first = await asyncio.to_thread(one.admit, ONE)
        second = asyncio.create_task(other.aadmit(ONE))
        await awaiting(other, 1)
        await asyncio.to_thread(first.settle, Usage())
        async with asyncio.timeout(10):
            ticket = await second
        ticket.settle(USED)
        await ticket.delivered()
    assert await asyncio.to_thread(eventually, lambda: is_quiet(other))


def test_a_thread_waits_for_what_another_worker_holds(account, url):
    budget = account(tokens=200)
    with side_by_side(budget, budget.replace(store=twin(url))) as (one, other):
        first = one.admit(ONE)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(other.admit, ONE)
            waiting(other, 1)
            first.settle(Usage())
            second.result(10).settle(USED)
        one.refresh()
    assert one.spent.tokens == 100
    assert eventually(lambda: is_quiet(one))


def test_patience_0_refuses_at_once(account):
    with account(tokens=200, patience=0).open(id="1") as scope:
        ticket = scope.admit(ONE)
        with ThreadPoolExecutor(1) as pool:
            error = pool.submit(scope.admit, ONE).exception(10)
        assert isinstance(error, BudgetBusy)
        assert (error.meter, error.held, error.limit) == ("tokens", 200, 200)
        ticket.settle(Usage(1, 1))
        scope.admit(ONE).settle(Usage(1, 1))
    assert eventually(lambda: is_quiet(scope))


def test_patience_is_bounded(account):
    with account(tokens=200, patience=0.05).open(id="1") as scope:
        ticket = scope.admit(ONE)
        with ThreadPoolExecutor(1) as pool:
            error = pool.submit(scope.admit, ONE).exception(5)
        assert isinstance(error, BudgetBusy)
        ticket.release()
    assert eventually(lambda: is_quiet(scope))


async def test_a_sync_call_that_would_wait_on_an_event_loop_is_refused(account):
    with account(tokens=200).open(id="1") as scope:
        ticket = await asyncio.create_task(scope.aadmit(ONE))
        with pytest.raises(BudgetBusy, match="would block the event loop"):
            scope.admit(ONE)
        ticket.settle(Usage(1, 1))
        await ticket.delivered()
        scope.admit(ONE).settle(Usage(1, 1))
    assert await asyncio.to_thread(eventually, lambda: is_quiet(scope))


async def test_a_cancelled_task_that_waited_leaves_nothing_held(account):
    with account(tokens=200).open(id="1") as scope:
        ticket = await asyncio.create_task(scope.aadmit(ONE))
        first = asyncio.create_task(scope.aadmit(ONE))
        await awaiting(scope, 1)
        second = asyncio.create_task(scope.aadmit(ONE))
        await awaiting(scope, 2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        ticket.settle(Usage(1, 1))
        async with asyncio.timeout(10):
            (await second).settle(Usage(1, 1))
    assert scope.counts.in_flight == 0
    assert await asyncio.to_thread(eventually, lambda: is_quiet(scope))


async def test_a_task_cancelled_at_any_moment_of_its_admission_leaves_nothing_held(account, url):
    budget = account(tokens=20_000)
    with budget.open(id="1") as scope:
        for steps in range(30):
            task = asyncio.create_task(scope.aadmit(ONE))
            for _ in range(steps % 6):
                await asyncio.sleep(0)
            await asyncio.sleep(steps * 0.0001)
            task.cancel()
            with suppress(asyncio.CancelledError):
                (await task).release()
        assert await asyncio.to_thread(eventually, lambda: is_quiet(scope))
        assert scope.counts.in_flight == 0
        assert STORE.in_flight == set()


@pytest.mark.parametrize("busy", [False, True])
async def test_a_hold_that_is_made_after_its_task_was_cancelled_is_given_back(
    busy, account, url, monkeypatch
):
    """The store is asked, slowly, in another thread; the task does not wait for the answer."""
    if url is None:
        pytest.skip("memory answers at once")
    asked, go_on = threading.Event(), threading.Event()
    with account(tokens=200).open(id="1") as scope:
        await scope.arefresh()
        store = scope.account.link.store
        run = store.run

        def slowly(command: Any) -> Any:
            if type(command).__name__ == "Hold":
                asked.set()
                go_on.wait(10)
            return run(command)

        monkeypatch.setattr(store, "run", slowly)
        task = asyncio.create_task(scope.aadmit(ONE))
        await asyncio.to_thread(asked.wait, 10)
        task.cancel()
        if busy:
            await asyncio.sleep(0.05)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        assert await asyncio.to_thread(eventually, lambda: is_quiet(scope))


def test_settling_or_releasing_twice_moves_the_ledger_once(account):
    with account(turns=5).open(id="1") as scope:
        ticket = scope.admit(ONE)
        ticket.settle(USED)
        ticket.settle(USED)
        ticket.release()
        other = scope.admit(ONE)
        other.release()
        other.release()
        other.settle(USED)
        scope.refresh()
        assert (scope.spent.turns, scope.spent.tokens) == (1, 100)
        assert scope.counts == (2, 1, 1)
    assert eventually(lambda: is_quiet(scope))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of windows, here and in a SQLite file; Redis goes by its own."""
    now = [NOON]
    monkeypatch.setattr(memory.time, "time", lambda: now[0])
    return now


@pytest.fixture(params=["memory", "sqlite"])
def hourly(request, tenant, clock) -> Callable[..., Budget]:
    """A Budget that is renewed every hour of a clock that can be turned."""

    def make(**fields: Any) -> Budget:
        store = None if request.param == "memory" else request.getfixturevalue("sqlite_url")
        if store is not None:
            link_to(store).store._clock = lambda: clock[0]
        common: dict[str, Any] = {"store": store, "tenant": tenant, "window": "hour"}
        return Budget("hourly", **{"policy": PLAIN, **common, **fields})

    return make


def later(clock: list[float], scope: Scope) -> None:
    """An hour passes, and the mirrors are no longer fresh."""
    clock[0] += 3_600
    for each in scope.lineage.accounts:
        if each.shared:
            each.read_at = float("-inf")


def test_an_account_starts_anew_when_its_window_ends(hourly, clock):
    with hourly(turns=1).open() as scope:
        scope.admit(ONE).settle(USED)
        later(clock, scope)
        scope.admit(ONE).settle(USED)
        assert (scope.spent.turns, scope.own.turns) == (1, 2)


def test_a_latched_scope_takes_calls_again_in_the_new_window(hourly, clock):
    with hourly(turns=1).open() as scope:
        scope.admit(ONE).settle(USED)
        with pytest.raises(BudgetExceeded):
            scope.admit(ONE)
        later(clock, scope)
        scope.admit(ONE).settle(USED)
        with pytest.raises(BudgetExceeded):
            scope.admit(ONE)


@pytest.mark.parametrize("how", ["settle", "release"])
def test_a_ticket_of_the_old_window_leaves_the_new_one_untouched(how, hourly, clock):
    budget = hourly(turns=2)
    with budget.open() as scope:
        old = scope.admit(ONE)
        later(clock, scope)
        new = scope.admit(ONE)
        old.settle(Usage(7, 7)) if how == "settle" else old.release()
        assert (scope.spent.turns, scope.held.turns) == (0, 1)
        new.settle(Usage(1, 1))
        scope.refresh()
        assert (scope.spent.turns, scope.spent.tokens, scope.held.turns) == (1, 2, 0)
    if budget.store is not None:
        old_one, new_one = balances(budget)
        assert old_one.settled[0] == (14 if how == "settle" else 0)
        assert new_one.settled[0] == 2
        assert not any((*old_one.held, *new_one.held))


def test_a_budget_with_a_window_and_no_id_is_one_account_for_all_tasks(account):
    budget = account(turns=2, window="month")
    for _ in range(2):
        with budget.open() as scope:
            scope.admit(ONE).settle(USED)
    with budget.open() as scope, pytest.raises(BudgetExceeded):
        scope.admit(ONE)
    with budget.open(id="1") as scope:
        scope.admit(ONE).settle(USED)


def test_a_loop_that_goes_on_in_a_new_window_gets_its_last_call_there(hourly, clock):
    budget = hourly(turns=2, policy=Budget("b").policy, answer_tokens=10)
    call = ONE._replace(loop=("a",))
    with budget.open() as scope:
        scope.admit(call).settle(USED)
        later(clock, scope)
        scope.admit(ONE).settle(USED)
        last = scope.admit(call)
        assert last.plan.final
        last.settle(USED, ends_loop=True)
    assert eventually(lambda: is_quiet(scope))


def test_an_extension_belongs_to_the_window_it_is_made_in(hourly, clock):
    with hourly(turns=1).open() as scope:
        scope.admit(ONE).settle(USED)
        later(clock, scope)
        scope.extend(turns=1)
        scope.admit(ONE).settle(USED)
        scope.admit(ONE).settle(USED)
        later(clock, scope)
        scope.admit(ONE).settle(USED)
        with pytest.raises(BudgetExceeded):
            scope.admit(ONE)


def test_a_shield_does_not_hide_from_an_account_in_a_store(shared, tenant):
    outer = Budget("outer", turns=1, policy=PLAIN, store=shared, tenant=tenant)
    with outer.open() as scope, Budget("inner", turns=5, policy=PLAIN).open(shield=True) as inner:
        inner.admit(ONE).settle(USED)
        with pytest.raises(BudgetExceeded) as refused:
            inner.admit(ONE)
    assert refused.value.budget == "outer"
    assert scope.spent.turns == 1


def test_extending_takes_calls_again(account):
    with account(turns=1).open(id="1") as scope:
        scope.admit(ONE).settle(USED)
        with pytest.raises(BudgetExceeded):
            scope.admit(ONE)
        scope.extend(turns=2)
        assert (scope.limits.turns, scope.remaining.turns) == (3, 2)
        for _ in range(2):
            scope.admit(ONE).settle(USED)
        with pytest.raises(BudgetExceeded) as refused:
            scope.admit(ONE)
    assert (refused.value.used, refused.value.limit) == (3, 3)


async def test_extending_on_an_event_loop_does_the_same(account):
    with account(turns=1).open(id="1") as scope:
        (await scope.aadmit(ONE)).settle(USED)
        with pytest.raises(BudgetExceeded):
            await scope.aadmit(ONE)
        await scope.aextend(turns=1)
        ticket = await scope.aadmit(ONE)
        ticket.settle(USED)
        await ticket.delivered()


def test_extending_wakes_who_waits(account, url):
    budget = account(tokens=200)
    with side_by_side(budget, budget.replace(store=twin(url))) as (one, other):
        held = one.admit(ONE)
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(each.admit, ONE) for each in (one, other)]
            assert eventually(lambda: sum(len(e.account.waiters or ()) for e in (one, other)) >= 2)
            one.extend(tokens=400)
            for each in calls:
                each.result(10).settle(USED)
        held.settle(USED)
    assert eventually(lambda: is_quiet(one))


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_everybody_who_shares_the_account_takes_calls_again_when_it_is_extended(
    where, account, url
):
    budget = account(turns=1)
    store = url if where == "here" else twin(url)
    with side_by_side(budget, budget.replace(store=store)) as (one, other):
        one.admit(ONE).settle(USED)
        for each in (one, other):
            with pytest.raises(BudgetExceeded):
                each.admit(ONE)
        one.extend(turns=1)
        other.refresh()
        assert other.limits.turns == 2
        other.admit(ONE).settle(USED)
        with pytest.raises(BudgetExceeded):
            one.admit(ONE)


def test_a_child_that_its_parent_refused_takes_calls_again_when_the_parent_is_extended(account):
    with account(turns=1).open(id="1") as parent, Budget("part").open() as child:
        child.admit(ONE).settle(USED)
        with pytest.raises(BudgetExceeded):
            child.admit(ONE)
        parent.extend(turns=1)
        child.admit(ONE).settle(USED)


def test_a_loop_that_had_its_last_call_in_a_child_goes_on_when_the_parent_is_extended(account):
    call = ONE._replace(loop=("a",))
    budget = account(turns=1, policy=Budget("b").policy, answer_tokens=10)
    with budget.open(id="1") as parent, Budget("part").open() as child:
        last = child.admit(call)
        assert last.plan.final
        last.settle(USED)
        with pytest.raises(BudgetExceeded):
            child.admit(call)
        parent.extend(turns=5)
        again = child.admit(call)
        assert not again.plan.final
        again.settle(USED, ends_loop=True)


def test_an_extension_lasts_as_long_as_the_account(account):
    budget = account(turns=1, usd="1.00", prices={"m": {"input": 1, "output": 1}})
    with budget.open(id="1") as scope:
        scope.extend(turns=1, usd="0.50")
    with budget.open(id="1") as scope:
        scope.refresh()
        assert scope.limits.turns == 2
        assert str(scope.limits.usd) == "1.50"


@pytest.mark.parametrize(
    ("amounts", "error"),
    [
        ({}, ValueError),
        ({"turns": 0}, ValueError),
        ({"turns": -1}, ValueError),
        ({"tokens": 5}, ValueError),
        ({"seconds": 5}, ValueError),
        ({"usd": "1"}, ValueError),
        ({"turns": "5"}, TypeError),
        ({"hours": 5}, TypeError),
    ],
)
def test_an_extension_must_name_a_limit_and_a_positive_amount(amounts, error, account):
    with account(turns=1).open(id="1") as scope:
        with pytest.raises(error):
            scope.extend(**amounts)
        scope.refresh()
        assert scope.limits.turns == 1


async def test_a_tool_cannot_extend_the_budget_of_its_agent(account):
    with account(turns=1).open(id="1") as scope:
        tokens = enter_tool(scope)
        with pytest.raises(PermissionError):
            scope.extend(turns=5)
        with pytest.raises(PermissionError):
            await scope.aextend(turns=5)
        leave_tool(tokens)
        assert scope.limits.turns == 1


def test_more_seconds_are_for_this_handle(account):
    budget = account(turns=5, seconds=60.0)
    with side_by_side(budget, budget) as (one, other):
        one.deadline = time.monotonic() - 1
        with pytest.raises(BudgetExceeded, match="seconds"):
            one.admit(ONE)
        one.extend(seconds=60)
        one.admit(ONE).settle(USED)
        assert one.limits.seconds == 120
        assert other.limits.seconds == 60


def test_who_waits_when_the_seconds_are_extended_waits_quietly_and_longer(account):
    asked: list[float] = []

    def policy(state: State) -> Plan:
        asked.append(state.spent.tokens)
        return PLAIN(state)

    with account(tokens=200, seconds=0.1, policy=policy).open(id="1") as scope:
        ticket = scope.admit(ONE)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(scope.admit, ONE)
            waiting(scope, 1)
            scope.extend(seconds=60)
            time.sleep(0.3)
            ticket.settle(Usage())
            second.result(10).settle(USED)
    assert len(asked) < 200  # not as often as it can


def test_what_is_observed_counts_and_refuses_nothing(account):
    budget = account(turns=1, policy=observe(PLAIN))
    told: list[events.Event] = []
    unsubscribe = events.subscribe(told.append)
    with budget.open(id="1") as scope:
        for _ in range(3):
            scope.admit(ONE).settle(USED)
    unsubscribe()
    with budget.open(id="1") as scope:
        scope.refresh()
        assert scope.spent.turns == 3
    assert [each.decision for each in told if isinstance(each, events.Decided)] == ["refuse"] * 2
    assert eventually(lambda: is_quiet(scope))


def _after_fork(scope: Scope, budget: Budget, answers: Any) -> None:
    try:
        scope.admit(ONE)
    except ScopeClosed as error:
        answers.put(str(error))
    scope.close()
    with budget.open(id="1") as own:
        own.admit(ONE._replace(loop=("a",))).settle(USED)
        answers.put(own.spent.turns)


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork"
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_the_account_anew(shared, tenant):
    budget = Budget("order", turns=5, policy=PLAIN, store=shared, tenant=tenant)
    context = multiprocessing.get_context("fork")
    with budget.open(id="1") as scope:
        held = scope.admit(ONE._replace(loop=("a",)))
        answers = context.Queue()
        process = context.Process(target=_after_fork, args=(scope, budget, answers))
        process.start()
        assert "fork" in answers.get(timeout=10)
        assert answers.get(timeout=10) == 1
        process.join(10)
        assert process.exitcode == 0
        held.settle(USED)
        scope.refresh()
        assert (scope.spent.turns, scope.held.turns) == (2, 0)


def test_a_budget_with_a_store_and_a_window_pickles(account):
    budget = account(turns=1, window="day", on_store_failure="refuse")
    copy = pickle.loads(pickle.dumps(budget))
    assert copy == budget
    assert hash(copy) == hash(budget)
    for name in ("store", "window", "tenant", "on_store_failure"):
        assert getattr(copy, name) == getattr(budget, name)
    with budget.open() as scope:
        scope.admit(ONE).settle(USED)
    with copy.open() as scope, pytest.raises(BudgetExceeded):
        scope.admit(ONE)


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"store": "postgres://host/db"}, ValueError, "store"),
        ({"store": "fleet.db"}, ValueError, "store"),
        ({"store": 7}, TypeError, "store"),
        ({"window": "week"}, ValueError, "window"),
        ({"tenant": 7}, TypeError, "tenant"),
        ({"tenant": None}, TypeError, "tenant"),
        ({"on_store_failure": "ignore"}, ValueError, "on_store_failure"),
        ({"on_store_failure": "local"}, ValueError, "on_store_failure"),
    ],
)
def test_what_cannot_be_is_said_when_the_budget_is_made(fields, error, named):
    with pytest.raises(error, match=named):
        Budget("order", turns=1, **fields)


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite:///x?leas=3", "redis://", "redis://h/0?x=1"])
def test_a_store_with_a_bad_part_is_said_when_the_first_scope_opens(url):
    with pytest.raises(ValueError):
        Budget("order", turns=1, store=url).open()


def test_holds_in_two_tenants_of_one_store_keep_their_leases(shared, tenant):
    url = f"{shared}?lease=0.3"
    outer = Budget("outer", turns=3, store=url, tenant=tenant, answer_tokens=10)
    inner = Budget("inner", turns=3, store=url, tenant=f"{tenant}i", answer_tokens=10)
    call = ONE._replace(loop=("a",))
    with outer.open(id="1") as task, inner.open(id="1") as scope:
        ticket = scope.admit(call)
        time.sleep(0.7)
        for each in (outer, inner):
            assert [(b.held[4], b.reserved[4]) for b in balances(each)] == [(1, 1)]
        ticket.settle(USED)
        time.sleep(0.7)
        for each in (outer, inner):
            assert [(b.held[4], b.reserved[4], b.late) for b in balances(each)] == [(0, 1, 0)]
    assert eventually(lambda: is_quiet(task, inner))
    assert is_quiet(scope)


def test_a_loop_that_answers_in_the_parent_keeps_nothing_back_in_the_child(shared, tenant):
    parent = Budget("order", turns=5, store=shared, tenant=tenant, answer_tokens=10)
    call = ONE._replace(loop=("a",))
    with parent.open(id="1") as task, parent.replace(name="part").open(id="2") as part:
        part.admit(call).settle(USED)
        task.admit(call).settle(USED, ends_loop=True)
        assert eventually(lambda: is_quiet(part))
        assert not part.account.link.leases._loops


def test_a_last_call_that_is_owed_again_keeps_its_lease(shared, tenant):
    url = f"{shared}?lease=0.3"
    budget = Budget("order", turns=2, store=url, tenant=tenant, answer_tokens=10)
    call = ONE._replace(loop=("a",))
    with budget.open(id="1") as scope:
        scope.admit(call).settle(USED)
        scope.admit(call).release()
        time.sleep(0.7)
        assert balances(budget)[0].reserved[4] == 1


def test_a_scope_that_is_gone_leaves_no_mirror_behind(shared, tenant):
    budget = Budget("order", turns=5, policy=PLAIN, store=shared, tenant=tenant)
    with budget.open(id="1") as scope:
        scope.admit(ONE._replace(loop=("a",))).settle(USED)
    mirror, link = weakref.ref(scope.account), scope.account.link
    del scope
    assert eventually(lambda: not gc.collect() and mirror() is None)
    assert not link._accounts
    assert not link.leases._holds
    assert not link.leases._loops


class Abandoned:
    """Settles when it is collected, as a stream does that nobody closed."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.itself = self

    def __del__(self) -> None:
        self.ticket.settle(USED)


@pytest.mark.parametrize("in_courier", [False, True])
def test_what_a_finalizer_settles_in_the_middle_of_a_command_is_delivered(
    in_courier, shared, tenant, monkeypatch
):
    budget = Budget("order", turns=5, policy=PLAIN, store=shared, tenant=tenant)
    with budget.open(id="1") as scope:
        ticket, other = scope.admit(ONE), scope.admit(ONE)
        left = [Abandoned(ticket)]
        del ticket
        store = scope.account.link.store
        inner = "_ledger" if shared.startswith("sqlite") else "_evaluate"
        original = getattr(store, inner)

        def collecting(*args: Any) -> Any:
            if left:
                left.clear()
                gc.collect()
            return original(*args)

        monkeypatch.setattr(store, inner, collecting)
        if in_courier:  # which delivers what ends on an event loop
            asyncio.run(_settle(other))
        else:
            other.settle(USED)
        assert eventually(lambda: balances(budget)[0].settled[4] == 2)
        scope.admit(ONE).settle(USED)  # the store was never out of reach
        assert eventually(lambda: is_quiet(scope))
    assert scope.spent.turns == 3


async def _settle(ticket: Ticket) -> None:
    ticket.settle(USED)
    await ticket.delivered()


def test_no_error_of_a_budget_in_a_store_is_of_another_kind(account):
    with account(turns=1).open(id="1") as scope:
        scope.admit(ONE).settle(USED)
        with pytest.raises(BudgetGuardError) as refused:
            scope.admit(ONE)
        copy = pickle.loads(pickle.dumps(refused.value))
        assert copy.numbers() == refused.value.numbers()
    with pytest.raises(ScopeClosed):
        scope.admit(ONE)


def test_a_scope_that_is_entered_knows_what_others_have_spent(shared, tenant):
    budget = Budget("order", store=shared, tenant=tenant, turns=5)
    with budget.open(id="seen") as scope:
        scope.admit(ONE).settle(USED)
        scope.extend(turns=2)
    close_links()
    with budget.open(id="seen") as scope:
        assert (scope.spent.turns, scope.remaining.turns, scope.limits.turns) == (1, 6, 7)


async def test_a_scope_that_is_entered_on_an_event_loop_knows_it_too(shared, tenant):
    budget = Budget("order", store=shared, tenant=tenant, turns=5)
    async with budget.open(id="seen") as scope:
        ticket = await scope.aadmit(ONE)
        ticket.settle(USED)
        await ticket.delivered()
    close_links()
    async with budget.open(id="seen") as scope:
        assert scope.spent.turns == 1


def test_a_closed_scope_cannot_be_extended():
    with Budget("order", turns=1).open() as scope:
        pass
    with pytest.raises(ScopeClosed):
        scope.extend(turns=1)


def test_an_id_is_not_empty():
    with pytest.raises(ValueError, match="id"):
        Budget("order").open(id="")
