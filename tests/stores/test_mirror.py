"""What one process believes of a shared account, where it could come to differ from the store."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from budgetguard import Budget, Price, Scope
from budgetguard.call import Call
from budgetguard.fleet import attempt_shared
from budgetguard.spend import ZERO, Usage
from budgetguard.stores import courier, link
from budgetguard.stores.opening import open_store
from budgetguard.stores.protocol import Balance, Hold
from budgetguard.stores.shared import SharedAccount, Unconfirmed
from tests.stores.conftest import RedisServer
from tests.stores.test_processes import until

PRICES = {"m": Price(input="1", output="10")}
CALL = Call(model="m", input_tokens=100)
USED = Usage(100, 20)


@pytest.fixture(autouse=True)
def links_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(link, "QUIET_S", 0.0)
    monkeypatch.setattr(courier, "FLUSH_S", 0.2)
    yield
    link.close_links()


def mirror(scope: Scope) -> SharedAccount:
    assert isinstance(scope.account, SharedAccount)
    return scope.account


def local(server: RedisServer, **limits: int) -> Budget:
    return Budget(
        "b", store=f"{server.url}?timeout=0.3", on_store_failure="local", prices=PRICES, **limits
    )


def come_back(server: RedisServer, scope: Scope) -> None:
    server.start()
    until(lambda: not mirror(scope).link._failed, within_s=10)
    scope.refresh()


def test_calls_made_while_the_store_is_away_hold_nothing_once_they_are_over(
    redis_server: RedisServer,
):
    scope = local(redis_server, tokens=100_000).open(id="1")
    scope.admit(CALL).settle(USED)
    redis_server.stop()
    settled, released = scope.admit(CALL), scope.admit(CALL)
    assert scope.held.tokens == 2 * 4_196
    released.release()
    settled.settle(USED)
    assert scope.held.tokens == 0
    come_back(redis_server, scope)
    assert mirror(scope)._unconfirmed == Unconfirmed()
    assert mirror(scope).held == ZERO


def test_a_call_of_an_earlier_outage_gives_no_room_to_the_next_one(redis_server: RedisServer):
    """A tenth of 50,000 tokens: one call of 4,196 in each outage, and not two."""
    scope = local(redis_server, tokens=50_000).open(id="1")
    scope.admit(CALL).settle(Usage(0, 0))
    redis_server.stop()
    earlier = scope.admit(CALL)
    redis_server.start()
    scope.admit(CALL).settle(Usage(0, 0))
    until(lambda: not mirror(scope).link._failed, within_s=10)
    redis_server.stop()
    scope.admit(CALL)
    earlier.settle(USED)
    with pytest.raises(Exception, match="is used up"):
        scope.admit(CALL)


def test_an_account_that_the_store_lost_is_not_full_for_ever(redis_server: RedisServer):
    budget = Budget("b", turns=2, store=redis_server.url)
    scope = budget.open(id="1")
    for _ in range(2):
        scope.admit(CALL).settle(USED)
    redis_server.restart()
    scope.admit(CALL).settle(USED)
    assert scope.spent.turns == 1


def test_tasks_that_are_cancelled_while_they_ask_for_a_hold_leave_none_behind(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'fleet.db'}"
    scope = Budget("b", turns=10_000, store=url).open(id="1")

    async def ask_and_cancel() -> None:
        for delay in range(20):
            tasks = [asyncio.create_task(scope.aadmit(CALL)) for _ in range(50)]
            await asyncio.sleep(0.001 * (delay % 5))
            for each in tasks:
                each.cancel()
            for each in await asyncio.gather(*tasks, return_exceptions=True):
                if not isinstance(each, BaseException):
                    each.settle(USED)
                    await each.delivered()

    asyncio.run(ask_and_cancel())
    store = open_store(url)
    until(lambda: not mirror(scope).link.undelivered, within_s=10)
    assert [each.held for each in store.accounts()] == [ZERO]
    store.close()


def test_what_is_settled_goes_to_the_account_it_was_held_in(tmp_path: Path):
    """Even if others here heard of a new one between the store's answer and its use."""
    url = f"sqlite:///{tmp_path / 'fleet.db'}"
    scope = Budget("b", turns=10, store=url).open(id="1")
    account = mirror(scope)
    steps = attempt_shared(scope, CALL, threading.get_ident(), None)
    step, ticket = next(steps), None
    while ticket is None:
        reply = step.link.run(step.command)
        account.balance = Balance(account.address, epoch=2**50)
        try:
            step = steps.send(reply)
        except StopIteration as done:
            ticket = done.value
    (part,) = ticket.held._parts
    assert part.held_in == ((account.address, reply.balances[0].epoch),)


def test_a_call_is_held_in_the_window_it_was_granted_in(tmp_path: Path):
    """Even if others here heard of a newer one while another store was asked."""
    outer = Budget("outer", turns=10, store=f"sqlite:///{tmp_path / 'outer.db'}")
    inner = Budget("inner", turns=10, window="day", store=f"sqlite:///{tmp_path / 'inner.db'}")
    with outer.open(id="1"), inner.open(id="1") as scope:
        account = mirror(scope)
        granted_in = account.window
        steps = attempt_shared(scope, CALL, threading.get_ident(), None)
        asked = [next(steps)]
        while asked[-1].command.__class__ is not Hold:
            asked.append(steps.send(asked[-1].link.run(asked[-1].command)))
        account.move_to("2026-01-01")
        asked.append(steps.send(asked[-1].link.run(asked[-1].command)))
        (line,) = asked[-1].command.lines
        assert line.address.window == granted_in
        with pytest.raises(StopIteration) as done:
            steps.send(asked[-1].link.run(asked[-1].command))
        done.value.value.settle(USED)
        assert account._unconfirmed == Unconfirmed()
        scope.refresh()
        assert scope.spent.tokens == 120
