"""What a call is charged that the provider refused, or never answered in full."""

from __future__ import annotations

import asyncio
import gc

import pytest
from langchain.agents import create_agent

from budgetguard import Budget, events
from budgetguard.testing import Fault, Reply
from budgetguard_langchain import BudgetCallbackHandler

BUDGET = Budget("task", tokens=50_000, turns=10, usd="1")
TALE = Reply("Once upon a time there was a budget that held. " * 20, chunks=40)


def handled(budget=BUDGET):
    return {"callbacks": [BudgetCallbackHandler(budget)]}


def settled_of(books):
    return books.of(events.Settled)


def charged_an_estimate(books) -> None:
    """One turn, flagged, more than nothing and no more than was held."""
    (settled,), (admitted,), (closed,) = (
        settled_of(books),
        books.of(events.Admitted),
        books.of(events.Closed),
    )
    assert settled.estimated
    assert 0 < settled.input_tokens + settled.output_tokens <= admitted.held_tokens
    assert 0 < settled.usd <= admitted.held_usd
    assert settled.overshoot_tokens == 0
    assert closed.turns == 1


def test_an_error_answer_is_a_turn_without_tokens(call, name, serve, chat, books):
    provider = serve("four")
    provider.inject(Fault(status=429))
    with pytest.raises(Exception, match="429"):
        call(chat(provider, name), "2+2", handled())
    assert (provider.requests, provider.calls) == (1, 0)
    assert books.outcomes == ["error"]
    assert [each.estimated for each in settled_of(books)] == [False]
    books.agree_with(provider)


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
def test_every_error_status_is_a_turn_without_tokens(status, name, serve, chat, books):
    provider = serve("four")
    provider.inject(Fault(status=status))
    with pytest.raises(Exception, match=str(status)):
        chat(provider, name).invoke("2+2", handled())
    assert books.outcomes == ["error"]
    books.agree_with(provider)


def test_an_error_answer_inside_an_agent_is_a_turn_without_tokens(call, serve, chat, lookup, books):
    provider = serve("four")
    provider.inject(Fault(status=500))
    with pytest.raises(Exception, match="500"):
        call(create_agent(chat(provider), [lookup]), {"messages": [("user", "go")]}, handled())
    assert books.outcomes == ["error"]
    books.agree_with(provider)


def test_retries_of_the_client_belong_to_one_turn(name, serve, chat, books):
    provider = serve("four")
    provider.inject(Fault(status=429, retry_after=0.01), times=2)
    chat(provider, name, max_retries=2).invoke("2+2", handled())
    assert (provider.requests, provider.calls) == (3, 1)
    assert [each.turns for each in books.tasks] == [1]
    assert [each.tokens for each in books.tasks] == [provider.tokens]


def test_retries_of_langchain_are_turns_of_their_own(name, serve, chat, books):
    provider = serve("four")
    provider.inject(Fault(status=500))
    chain = chat(provider, name).with_retry(wait_exponential_jitter=False, stop_after_attempt=2)
    with BUDGET.open() as task:
        chain.invoke("2+2", {"callbacks": [BudgetCallbackHandler()]})
    assert task.spent.turns == provider.requests == 2
    books.agree_with(provider)


def test_a_timeout_is_charged_an_estimate(call, name, serve, chat, books):
    provider = serve("four")
    with provider.hold(), pytest.raises(Exception, match=r"(?i)timed out|timeout"):
        call(chat(provider, name, timeout=0.1), "2+2", handled())
    charged_an_estimate(books)


def test_a_cut_answer_is_charged_an_estimate(name, serve, chat, books):
    provider = serve(TALE)
    provider.inject(Fault(cut_after=0))
    with pytest.raises(Exception, match=r"(?i)connection|protocol|peer|expecting|incomplete"):
        chat(provider, name).invoke("2+2", handled())
    charged_an_estimate(books)


@pytest.mark.parametrize("form", ["stream", "astream"])
@pytest.mark.parametrize("after", [0, 1, 2, 12])
def test_a_cut_stream_is_charged_an_estimate(after, form, name, serve, chat, books):
    provider = serve(TALE)
    provider.inject(Fault(cut_after=after))
    model = chat(provider, name)

    async def drain() -> None:
        async for _ in model.astream("2+2", handled()):
            pass

    with pytest.raises(Exception, match=r"(?i)connection|protocol|peer|incomplete|no generation"):
        list(model.stream("2+2", handled())) if form == "stream" else asyncio.run(drain())
    charged_an_estimate(books)
    assert settled_of(books)[0].output_tokens >= provider.output_tokens


def test_a_stream_broken_off_early_is_charged_an_estimate(name, serve, chat, books):
    provider = serve(TALE)
    with provider.hold(after_chunks=9):
        stream = chat(provider, name).stream("2+2", handled())
        received = [next(stream), next(stream), next(stream)]
        stream.close()
    assert len(received) == 3
    charged_an_estimate(books)
    assert books.outcomes == ["completed"]
    provider.wait_idle()


async def test_an_async_stream_broken_off_early_is_charged_an_estimate(name, serve, chat, books):
    provider = serve(TALE)
    with provider.hold(after_chunks=9):
        stream = chat(provider, name).astream("2+2", handled())
        async for _ in stream:
            break
        await stream.aclose()
    charged_an_estimate(books)
    assert books.outcomes == ["completed"]
    await asyncio.to_thread(provider.wait_idle)


def test_a_stream_that_is_dropped_unclosed_is_charged_an_estimate(name, serve, chat, books):
    provider = serve(TALE)
    with provider.hold(after_chunks=9):
        stream = chat(provider, name).stream("2+2", handled())
        next(stream)
        del stream
    charged_an_estimate(books)
    provider.wait_idle()


def test_an_agent_stream_broken_off_early_is_charged_an_estimate(serve, chat, lookup, books):
    provider = serve(TALE)
    agent = create_agent(chat(provider), [lookup])
    with provider.hold(after_chunks=9) as held:
        stream = agent.stream({"messages": [("user", "go")]}, handled(), stream_mode="messages")
        next(stream)
        held.release()
        stream.close()
    provider.wait_idle()
    (settled,) = settled_of(books)
    assert settled.input_tokens + settled.output_tokens > 0
    assert len(books.tasks) == 1


def test_a_v3_stream_broken_off_early_is_charged_an_estimate(name, serve, chat, books):
    provider = serve(TALE)
    with provider.hold(after_chunks=9):
        stream = chat(provider, name).stream_events("2+2", handled(), version="v3")
        iterator = iter(stream)
        next(iterator)
        del stream, iterator
        gc.collect()
    charged_an_estimate(books)
    provider.wait_idle()


def test_a_v3_stream_that_nobody_pulls_costs_nothing(name, serve, chat, books):
    provider = serve(TALE)
    stream = chat(provider, name).stream_events("2+2", handled(), version="v3")
    del stream
    gc.collect()
    assert provider.requests == 0
    assert settled_of(books) == []
    assert [each.turns for each in books.tasks] == [0]


@pytest.mark.parametrize("form", ["ainvoke", "astream"])
async def test_a_cancelled_call_is_charged_an_estimate(form, name, serve, chat, books):
    provider = serve("four")
    model = chat(provider, name)

    async def drain() -> None:
        async for _ in model.astream("2+2", handled()):
            pass

    with provider.hold() as held:
        coroutine = model.ainvoke("2+2", handled()) if form == "ainvoke" else drain()
        task = asyncio.create_task(coroutine)
        await asyncio.to_thread(held.wait_for, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    charged_an_estimate(books)
    assert books.outcomes == ["completed"]
    await asyncio.to_thread(provider.wait_idle)


async def test_a_cancelled_agent_is_charged_an_estimate(name, serve, chat, lookup, books):
    provider = serve("four")
    agent = create_agent(chat(provider, name), [lookup])
    with provider.hold() as held:
        task = asyncio.create_task(agent.ainvoke({"messages": [("user", "go")]}, handled()))
        await asyncio.to_thread(held.wait_for, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    charged_an_estimate(books)
    await asyncio.to_thread(provider.wait_idle)


def test_a_call_that_never_connected_is_given_back(call, name, serve, chat, books):
    provider = serve("four")
    provider.close()
    with pytest.raises(Exception, match=r"(?i)connection|connect"):
        call(chat(provider, name), "2+2", handled())
    assert settled_of(books) == []
    assert len(books.of(events.Released)) == 1
    assert [(each.turns, each.tokens, each.outcome) for each in books.tasks] == [(0, 0, "error")]
