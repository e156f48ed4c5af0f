"""The loopback provider through the real clients of both vendors and of LangChain."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI

from budgetguard.testing import LoopbackProvider, Reply, Request, ToolCall

SENTENCE = "The quick brown fox jumps over the lazy dog."  # 10 tokens
SEARCH = ToolCall("search", {"query": "budget", "limit": 3})
READ = ToolCall("read", {"path": "a.txt"}, id="call_read")
OPENAI_TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("search", "read")
]
CLAUDE_TOOLS = [
    {"name": name, "input_schema": {"type": "object"}, "description": ""}
    for name in ("search", "read")
]
HI: list[Any] = [{"role": "user", "content": "Hi"}]


def test_openai_answers_json(serve, ask_gpt):
    provider = serve(SENTENCE)
    completion = ask_gpt(provider)
    assert completion.choices[0].message.content == SENTENCE
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "gpt-4o"
    assert completion.usage.completion_tokens == 10
    assert completion.usage.prompt_tokens == provider.input_tokens > 0
    assert completion.usage.total_tokens == provider.tokens


def test_openai_streams_usage_only_when_asked(serve, stream_gpt):
    provider = serve(SENTENCE)
    chunks = stream_gpt(provider)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == SENTENCE
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    last = stream_gpt(provider, stream_options={"include_usage": True})[-1]
    assert last.choices == []
    assert last.usage.completion_tokens == 10
    assert provider.output_tokens == 20


def test_openai_streams_the_text_in_as_many_pieces_as_the_reply_says(serve, stream_gpt):
    contents = [c.choices[0].delta.content for c in stream_gpt(serve(Reply(SENTENCE, chunks=5)))]
    assert contents == [
        "",
        "The quick",
        " brown fox",
        " jumps over",
        " the lazy",
        " dog.",
        None,
    ]


def test_openai_calls_tools_in_parallel(serve, ask_gpt):
    provider = serve(Reply("Looking.", tool_calls=(SEARCH, READ)))
    message = ask_gpt(provider, tools=OPENAI_TOOLS).choices[0].message
    assert message.content == "Looking."
    assert [call.function.name for call in message.tool_calls] == ["search", "read"]
    assert json.loads(message.tool_calls[0].function.arguments) == {"query": "budget", "limit": 3}
    assert [call.id for call in message.tool_calls] == ["call_loopback_1_0_1", "call_read"]


def test_openai_says_n_choices_and_asks_the_script_for_each(serve, ask_gpt):
    provider = serve(["one", "two", "three"])
    completion = ask_gpt(provider, n=3)
    assert [choice.message.content for choice in completion.choices] == ["one", "two", "three"]
    assert completion.usage.completion_tokens == 3
    assert provider.calls == 1


def test_anthropic_answers_json(serve, ask_claude):
    provider = serve(SENTENCE)
    message = ask_claude(provider, system="Be brief.")
    assert [block.text for block in message.content] == [SENTENCE]
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 10
    assert message.usage.input_tokens == provider.input_tokens


def test_anthropic_streams_the_real_sequence_of_events(serve, claude):
    provider = serve(Reply("Looking.", tool_calls=(SEARCH,), chunks=2))
    asked: Any = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": HI}
    with claude(provider).messages.stream(**asked, tools=CLAUDE_TOOLS) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    raw = [kind for kind in kinds if kind not in {"text", "input_json"}]
    block = ["content_block_start", "content_block_delta", "content_block_delta"]
    assert raw == [
        "message_start",
        *block,
        "content_block_stop",
        *block,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert message.content[1].input == {"query": "budget", "limit": 3}
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens == provider.output_tokens


def test_tools_that_are_off_are_not_called(serve, ask_gpt, ask_claude):
    provider = serve(Reply("Done.", tool_calls=(SEARCH,)))
    assert ask_gpt(provider).choices[0].message.tool_calls is None
    off = ask_gpt(provider, tools=OPENAI_TOOLS, tool_choice="none").choices[0]
    assert (off.message.content, off.message.tool_calls) == ("Done.", None)
    message = ask_claude(provider, tools=CLAUDE_TOOLS, tool_choice={"type": "none"})
    assert [block.type for block in message.content] == ["text"]
    assert [e.request.tools_off for e in provider.log] == [True, True, True]
    assert [e.request.tools for e in provider.log] == [(), ("search", "read"), ("search", "read")]


@pytest.mark.parametrize("make", [ChatOpenAI, ChatAnthropic])
async def test_langchain_classes_work_in_every_way(serve, make):
    provider = serve(Reply(SENTENCE, tool_calls=(SEARCH,)))
    if make is ChatOpenAI:
        known = {"model": "gpt-4o", "base_url": provider.openai_url, "stream_usage": True}
    else:
        known = {"model": "claude-sonnet-4-5", "base_url": provider.anthropic_url}
    model = make(**known, api_key="test", max_retries=0).bind_tools(OPENAI_TOOLS)
    said = [model.invoke("Hi"), await model.ainvoke("Hi")]
    for parts in [list(model.stream("Hi")), [part async for part in model.astream("Hi")]]:
        whole = parts[0]
        for part in parts[1:]:
            whole += part
        said.append(whole)
    for message in said:
        assert message.text == SENTENCE
        assert message.tool_calls[0]["args"] == {"query": "budget", "limit": 3}
        assert message.usage_metadata["output_tokens"] == provider.log[0].usage.output_tokens
        assert message.usage_metadata["input_tokens"] == provider.log[0].usage.input_tokens
    assert provider.calls == 4


async def test_async_clients_of_both_vendors_work(serve):
    provider = serve(SENTENCE)
    async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="test") as client:
        completion = await client.chat.completions.create(model="gpt-4o", messages=HI)
        assert completion.choices[0].message.content == SENTENCE
    asked: Any = {"model": "made-up", "max_tokens": 9, "messages": HI}
    async with (
        anthropic.AsyncAnthropic(base_url=provider.anthropic_url, api_key="test") as client,
        client.messages.stream(**asked) as stream,
    ):
        assert await stream.get_final_text() == "The quick brown fox jumps over the lazy dog"


def test_a_script_sees_the_request_as_it_was_sent(serve, ask_gpt, ask_claude):
    seen: list[Request] = []

    def script(request: Request) -> str:
        seen.append(request)
        return "ok"

    provider = serve(script)
    ask_gpt(provider, model="gpt-5", reasoning_effort="high", max_completion_tokens=9)
    ask_claude(provider, thinking={"type": "enabled", "budget_tokens": 2048}, tools=CLAUDE_TOOLS)
    first, second = seen
    assert (first.api, first.model, first.index, first.stream) == ("openai", "gpt-5", 1, False)
    assert (first.effort, first.output_cap, first.thinks) == ("high", 9, True)
    assert (first.messages, first.prompt, first.tools_off) == (HI, "Hi", True)
    assert (second.api, second.index, second.thinking) == ("anthropic", 2, "enabled")
    assert (second.thinking_budget, second.output_cap) == (2048, 4096)
    assert (second.tools, second.tools_off) == (("search", "read"), False)
    assert provider.bodies == [first.body, second.body]


def test_a_script_that_runs_out_answers_500_and_says_so(serve, ask_gpt, gpt):
    provider = serve([Reply("one")])
    ask_gpt(provider)
    client = gpt(provider, max_retries=2)
    with pytest.raises(openai.InternalServerError, match="has run out after 1 replies"):
        client.chat.completions.create(model="gpt-4o", messages=HI)
    assert provider.requests == 2


def test_a_script_that_raises_answers_500_and_says_what(serve, ask_claude):
    provider = serve(lambda _request: 1 / 0)
    with pytest.raises(anthropic.InternalServerError, match="ZeroDivisionError"):
        ask_claude(provider)
    assert (provider.requests, provider.calls, provider.tokens) == (1, 0, 0)


def test_a_reply_refuses_nonsense():
    with pytest.raises(ValueError, match="must not be negative"):
        Reply("x", output_tokens=-1)
    with pytest.raises(ValueError, match="chunks must be at least 1"):
        Reply("x", chunks=0)


def test_closing_hangs_up_and_ends_every_thread(ask_gpt):
    before = set(threading.enumerate())
    with LoopbackProvider("ok") as provider:
        ask_gpt(provider)
        assert len(set(threading.enumerate()) - before) == 2
        provider.close()
    assert set(threading.enumerate()) == before


def test_closing_releases_what_is_held(serve, post):
    provider = serve("ok")
    url, body = f"{provider.openai_url}/chat/completions", {"model": "gpt-4o", "messages": HI}
    with ThreadPoolExecutor(1) as pool:
        held = provider.hold()
        call = pool.submit(post, url, body)
        held.wait_for(1)
        provider.close()
        call.exception(timeout=5)
    assert held.waiting == 0


def test_no_key_is_in_the_log_and_nothing_on_stderr(serve, capfd, ask_gpt, ask_claude):
    provider = serve("ok")
    ask_gpt(provider)
    ask_claude(provider)
    assert "sk-secret" not in repr(provider.log)
    assert capfd.readouterr().err == ""


def test_importing_it_loads_neither_a_framework_nor_a_client():
    program = (
        "import sys, budgetguard.testing\n"
        "heavy = {'openai', 'anthropic', 'langchain_core', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
