"""Fifty calls at once under one budget: it holds, and it is used."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from budgetguard import Budget, BudgetBusy, BudgetExceeded
from budgetguard.testing import Reply
from budgetguard_langchain import BudgetCallbackHandler

TURNS = Budget("turns", turns=10)
CENT = Reply("four", input_tokens=1000, output_tokens=750)  # $0.0025 + $0.0075 of gpt-4o
DIME = Budget("dime", usd="0.10")
PROMPT = "word " * 1000
NOBODY = {"callbacks": [BudgetCallbackHandler()]}


def refused(results) -> int:
    assert all(each is None or isinstance(each, BudgetExceeded) for each in results)
    return sum(each is not None for each in results)


async def queued(task, calls: int) -> None:
    """Let the loop run until so many calls wait for room."""
    async with asyncio.timeout(5):
        while len(task.account.waiters or ()) < calls:
            await asyncio.sleep(0)


async def fifty_tasks(model, prompt, provider, started: int):
    async def one():
        try:
            await model.ainvoke(prompt, NOBODY)
        except BudgetExceeded as error:
            return error

    with provider.hold() as held:
        calls = [asyncio.create_task(one()) for _ in range(50)]
        await asyncio.to_thread(held.wait_for, started)
        held.release()
        async with asyncio.timeout(20):
            return await asyncio.gather(*calls)


def fifty_threads(model, prompt, provider, scope, started: int):
    def one(_):
        with scope.activate():
            try:
                model.invoke(prompt, NOBODY)
            except BudgetExceeded as error:
                return error

    with provider.hold() as held, ThreadPoolExecutor(50) as pool:
        calls = [pool.submit(one, number) for number in range(50)]
        held.wait_for(started)
        held.release()
        return [each.result(timeout=20) for each in calls]


async def test_fifty_tasks_share_ten_turns(name, serve, chat, agree):
    provider = serve("four")
    with TURNS.open() as task:
        results = await fifty_tasks(chat(provider, name), "2+2", provider, 10)
        agree(task, provider)
    assert provider.requests == 10
    assert refused(results) == 40
    assert task.spent.turns == 10


def test_fifty_threads_share_ten_turns(name, serve, chat, agree):
    provider = serve("four")
    with TURNS.open() as task:
        results = fifty_threads(chat(provider, name), "2+2", provider, task, 10)
        agree(task, provider)
    assert provider.requests == 10
    assert refused(results) == 40


@pytest.mark.parametrize("cap", [None, 750])
async def test_fifty_tasks_share_a_dime_and_use_it(cap, serve, chat, agree):
    provider = serve(CENT)
    model = chat(provider) if cap is None else chat(provider, max_tokens=cap)
    with DIME.open() as task:
        results = await fifty_tasks(model, PROMPT, provider, 1)
        agree(task, provider)
    assert 9 <= provider.requests <= 10
    assert refused(results) == 50 - provider.requests
    assert Decimal("0.09") <= task.spent.usd <= Decimal("0.10")
    assert task.overshoot.usd == 0


@pytest.mark.parametrize("cap", [None, 750])
def test_fifty_threads_share_a_dime_and_use_it(cap, serve, chat, agree):
    provider = serve(CENT)
    model = chat(provider) if cap is None else chat(provider, max_tokens=cap)
    with DIME.open() as task:
        results = fifty_threads(model, PROMPT, provider, task, 1)
        agree(task, provider)
    assert 9 <= provider.requests <= 10
    assert refused(results) == 50 - provider.requests
    assert Decimal("0.09") <= task.spent.usd <= Decimal("0.10")


async def test_fifty_streams_share_ten_turns(name, serve, chat, agree):
    provider = serve("four")
    model = chat(provider, name)

    async def one():
        try:
            async for _ in model.astream("2+2", NOBODY):
                pass
        except BudgetExceeded as error:
            return error

    with TURNS.open() as task:
        async with asyncio.timeout(20):
            results = await asyncio.gather(*[one() for _ in range(50)])
        agree(task, provider)
    assert provider.requests == 10
    assert refused(results) == 40


async def test_one_abatch_of_fifty_shares_ten_turns(serve, chat, agree):
    provider = serve("four")
    with TURNS.open() as task:
        results = await chat(provider).abatch(["2+2"] * 50, NOBODY, return_exceptions=True)
        agree(task, provider)
    assert provider.requests == 10
    assert sum(isinstance(each, BudgetExceeded) for each in results) == 40


async def test_a_sync_call_in_a_running_loop_is_refused_instead_of_blocking_it(serve, chat):
    provider = serve("four")
    model = chat(provider)
    with Budget("task", turns=1).open() as task:
        with provider.hold() as held:
            first = asyncio.create_task(model.ainvoke("2+2", NOBODY))
            await asyncio.to_thread(held.wait_for, 1)
            with pytest.raises(BudgetBusy, match="would block the event loop"):
                model.invoke("2+2", NOBODY)
            with pytest.raises(BudgetBusy, match="would block the event loop"):
                next(model.stream("2+2", NOBODY))
        await first
    assert provider.requests == 1
    assert task.spent.turns == 1


async def test_a_sync_call_in_a_running_loop_that_need_not_wait_is_made(serve, chat, agree):
    provider = serve("four")
    with Budget("task", turns=2).open() as task:
        chat(provider).invoke("2+2", NOBODY)
        agree(task, provider)
    assert provider.calls == 1


def test_a_model_called_while_its_stream_is_consumed_is_refused_at_once(name, serve, chat, agree):
    provider = serve(Reply("one two three four five six"))
    model = chat(provider, name)
    with Budget("task", turns=1).open() as task:
        stream = model.stream("2+2", NOBODY)
        next(stream)
        with pytest.raises(BudgetBusy, match="end its stream first"):
            model.invoke("2+2", NOBODY)
        list(stream)
        agree(task, provider)
    assert provider.requests == 1


async def test_an_async_model_called_while_its_stream_is_consumed_is_refused_at_once(
    serve, chat, agree
):
    provider = serve(Reply("one two three four five six"))
    model = chat(provider)
    with Budget("task", turns=1).open() as task:
        async for _ in model.astream("2+2", NOBODY):
            if not task.exceeded:
                with pytest.raises(BudgetBusy, match="end its stream first"):
                    await model.ainvoke("2+2", NOBODY)
        agree(task, provider)
    assert provider.requests == 1


async def test_a_cancelled_waiter_leaves_the_queue_to_the_next(serve, chat, agree):
    provider = serve(CENT)
    model = chat(provider, max_tokens=750)
    with Budget("task", usd="0.02").open() as task:
        with provider.hold() as held:
            first = asyncio.create_task(model.ainvoke(PROMPT, NOBODY))
            await asyncio.to_thread(held.wait_for, 1)
            second = asyncio.create_task(model.ainvoke(PROMPT, NOBODY))
            third = asyncio.create_task(model.ainvoke(PROMPT, NOBODY))
            await queued(task, 2)
            second.cancel()
            held.release()
            async with asyncio.timeout(10):
                await asyncio.gather(first, third)
        with pytest.raises(asyncio.CancelledError):
            await second
        agree(task, provider)
    assert provider.requests == 2


async def test_a_call_waits_for_what_is_only_held(serve, chat, agree):
    provider = serve(CENT)
    model = chat(provider)
    with Budget("task", usd="0.05").open() as task:
        with provider.hold() as held:
            first = asyncio.create_task(model.ainvoke(PROMPT, NOBODY))
            await asyncio.to_thread(held.wait_for, 1)
            second = asyncio.create_task(model.ainvoke(PROMPT, NOBODY))
            await queued(task, 1)
            assert held.waiting == 1
            held.release()
            await asyncio.gather(first, second)
        agree(task, provider)
    assert task.outcome == "completed"


def test_patience_that_ran_out_closes_nothing(serve, chat, agree):
    provider = serve("four")
    model = chat(provider)
    with Budget("task", turns=2, patience=0).open() as task, provider.hold() as held:
        with ThreadPoolExecutor(2) as pool:

            def one():
                with task.activate():
                    model.invoke("2+2", NOBODY)

            calls = [pool.submit(one), pool.submit(one)]
            held.wait_for(2)
            with pytest.raises(BudgetBusy):
                model.invoke("2+2", NOBODY)
            held.release()
            for each in calls:
                each.result(timeout=10)
        agree(task, provider)
        assert task.spent.turns == 2
