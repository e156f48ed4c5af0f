"""Faults, held requests and clients that leave."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import anthropic
import openai
import pytest

from budgetguard.testing import Fault, Reply

SENTENCE = "The quick brown fox jumps over the lazy dog."  # 10 tokens
HI: list[Any] = [{"role": "user", "content": "Hi"}]


def test_faults_come_in_order_and_the_clients_retries_are_counted(serve, ask_gpt, ask_claude, gpt):
    provider = serve("ok")
    provider.inject(Fault(status=429, retry_after=0.001))
    provider.inject(Fault(status=500), times=2)
    with pytest.raises(openai.RateLimitError) as caught:
        ask_gpt(provider)
    assert caught.value.response.headers["retry-after"] == "0.001"
    assert caught.value.code == "rate_limit_exceeded"
    with pytest.raises(anthropic.InternalServerError) as broken:
        ask_claude(provider)
    assert broken.value.body["error"]["type"] == "api_error"
    with pytest.raises(openai.InternalServerError):
        ask_gpt(provider)
    assert ask_gpt(provider).choices[0].message.content == "ok"
    assert [exchange.status for exchange in provider.log] == [429, 500, 500, 200]
    assert (provider.requests, provider.calls) == (4, 1)
    provider.inject(Fault(status=429, retry_after=0.001))
    gpt(provider, max_retries=1).chat.completions.create(model="gpt-4o", messages=HI)
    assert (provider.requests, provider.calls) == (6, 2)


def test_usage_can_be_withheld_and_is_billed_all_the_same(serve, ask_gpt, ask_claude, stream_gpt):
    provider = serve(SENTENCE)
    provider.inject(Fault(no_usage=True), times=3)
    assert ask_gpt(provider).usage is None
    chunks = stream_gpt(provider, stream_options={"include_usage": True})
    assert all(chunk.usage is None for chunk in chunks)
    assert "usage" not in json.loads(ask_claude(provider).model_dump_json(exclude_unset=True))
    assert [exchange.usage.output_tokens for exchange in provider.log] == [10, 10, 10]


def test_a_cut_stream_bills_what_was_sent(serve, stream_gpt):
    provider = serve(Reply(SENTENCE, chunks=5))
    provider.inject(Fault(cut_after=3))
    with pytest.raises(openai.APIConnectionError):
        stream_gpt(provider)
    exchange = provider.log[0]
    assert (exchange.status, exchange.chunks_sent, exchange.disconnected) == (200, 3, False)
    assert exchange.usage.output_tokens == 4  # "The quick brown fox"
    assert provider.calls == 1


def test_a_cut_json_answer_is_billed_whole(serve, ask_claude):
    provider = serve(SENTENCE)
    provider.inject(Fault(cut_after=0))
    with pytest.raises(anthropic.APIConnectionError):
        ask_claude(provider)
    assert provider.output_tokens == 10
    assert provider.calls == 1


def test_a_client_that_leaves_a_stream_is_billed_what_was_sent(serve, ask_gpt):
    provider = serve(Reply(SENTENCE, chunks=5))
    with provider.hold(after_chunks=3) as held:
        stream = ask_gpt(provider, stream=True)
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "The quick"]
        held.wait_for(1)
        stream.close()
    provider.wait_idle()
    exchange = provider.log[0]
    assert (exchange.chunks_sent, exchange.disconnected) == (3, True)
    assert exchange.usage.output_tokens == 4
    assert exchange.usage.input_tokens == 6


async def test_a_cancelled_call_is_noticed(serve):
    provider = serve(SENTENCE)
    async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="test") as client:
        with provider.hold() as held:
            call = asyncio.create_task(client.chat.completions.create(model="gpt-4o", messages=HI))
            await asyncio.to_thread(held.wait_for, 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
    await asyncio.to_thread(provider.wait_idle)
    assert provider.log[0].disconnected


def test_a_client_that_does_not_wait_out_a_delay_ends_it(serve, ask_gpt):
    provider = serve(Reply("late", delay_s=60))
    with pytest.raises(openai.APITimeoutError):
        ask_gpt(provider, timeout=0.05)
    provider.wait_idle()
    assert provider.log[0].disconnected


def test_five_hundred_calls_are_in_flight_at_once(serve, post):
    provider = serve("ok")
    url, body = f"{provider.openai_url}/chat/completions", {"model": "gpt-4o", "messages": HI}
    with ThreadPoolExecutor(500) as pool, provider.hold() as held:
        calls = [pool.submit(post, url, body) for _ in range(500)]
        held.wait_for(500, timeout=20)
        assert provider.calls == 0
    assert {call.result().status for call in calls} == {200}
    assert (provider.requests, provider.calls, provider.output_tokens) == (500, 500, 500)


def test_held_requests_go_one_by_one(serve, ask_gpt):
    provider = serve("ok")
    with ThreadPoolExecutor(3) as pool, provider.hold() as held:
        calls = [pool.submit(ask_gpt, provider) for _ in range(3)]
        held.wait_for(3)
        held.release(1)
        wait(calls, timeout=5, return_when=FIRST_COMPLETED)
        assert (provider.calls, held.waiting) == (1, 2)


def test_waiting_for_requests_that_never_come_says_how_many_did(serve):
    with serve("ok").hold() as held, pytest.raises(TimeoutError, match="0 of 2 requests"):
        held.wait_for(2, timeout=0.01)
