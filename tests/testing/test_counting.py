"""What the loopback provider counts and bills, and where the output cap cuts."""

from __future__ import annotations

from typing import Any

import pytest

from budgetguard.testing import Reply, ToolCall, Usage

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


def test_the_output_cap_cuts_text_and_bill(serve, ask_gpt, ask_claude):
    provider = serve(SENTENCE)
    completion = ask_gpt(provider, max_tokens=4)
    assert completion.choices[0].message.content == "The quick brown fox"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 4
    message = ask_claude(provider, max_tokens=4)
    assert message.content[0].text == "The quick brown fox"
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 4


def test_a_cap_that_is_just_enough_does_not_bind(serve, ask_gpt):
    choice = ask_gpt(serve(SENTENCE), max_completion_tokens=10).choices[0]
    assert (choice.message.content, choice.finish_reason) == (SENTENCE, "stop")


def test_reasoning_comes_first_under_the_cap_and_is_billed(serve, ask_gpt):
    provider = serve(Reply(SENTENCE, reasoning_tokens=100))
    for cap, text, billed in [(104, "The quick brown fox", 104), (60, "", 60)]:
        completion = ask_gpt(provider, model="gpt-5", max_completion_tokens=cap)
        assert completion.choices[0].message.content == text
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage.completion_tokens == billed
        details = completion.usage.completion_tokens_details
        assert details.reasoning_tokens == min(cap, 100)
    assert provider.reasoning_tokens == 160
    assert provider.output_tokens == 164


@pytest.mark.parametrize(
    ("model", "options", "reasoning"),
    [
        ("gpt-4o", {}, 0),
        ("gpt-5", {"reasoning_effort": "minimal"}, 100),
        ("gpt-5.1", {}, 0),
        ("gpt-5.1", {"reasoning_effort": "low"}, 100),
        ("gpt-5.5", {"reasoning_effort": "none"}, 0),
        ("made-up", {}, 100),
        ("made-up", {"reasoning_effort": "none"}, 0),
    ],
)
def test_openai_models_reason_only_when_the_request_lets_them(
    serve, model, options, reasoning, ask_gpt
):
    provider = serve(Reply("Hello", reasoning_tokens=100))
    ask_gpt(provider, model=model, **options)
    assert provider.reasoning_tokens == reasoning
    assert provider.output_tokens == reasoning + 1


@pytest.mark.parametrize(
    ("model", "thinking", "reasoning"),
    [
        ("claude-sonnet-4-5", None, 0),
        ("claude-sonnet-4-5", {"type": "enabled", "budget_tokens": 2000}, 2000),
        ("claude-opus-4-7", {"type": "adaptive"}, 3000),
        ("claude-opus-5", None, 3000),
        ("claude-opus-5", {"type": "disabled"}, 0),
    ],
)
def test_claude_models_think_only_when_the_request_lets_them(
    serve, model, thinking, reasoning, ask_claude
):
    provider = serve(Reply("Hello", reasoning_tokens=3000))
    message = ask_claude(provider, model=model, **({"thinking": thinking} if thinking else {}))
    assert provider.reasoning_tokens == reasoning
    assert message.usage.output_tokens == reasoning + 1
    kinds = ["thinking", "text"] if reasoning else ["text"]
    assert [block.type for block in message.content] == kinds
    details = message.usage.output_tokens_details
    assert (details.thinking_tokens if details else 0) == reasoning


def test_a_reply_can_fix_what_is_billed_to_the_token(serve, ask_gpt, ask_claude):
    reply = Reply(
        "ok", input_tokens=10_000, output_tokens=500, cached_tokens=4000, cache_write_tokens=1000
    )
    provider = serve(reply)
    usage = ask_gpt(provider).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (10_000, 500)
    assert usage.prompt_tokens_details.cached_tokens == 4000
    usage = ask_claude(provider).usage
    assert (usage.input_tokens, usage.output_tokens) == (5000, 500)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (4000, 1000)
    assert provider.log[1].usage == Usage(10_000, 500, 0, 4000, 1000)
    assert ask_gpt(provider, max_tokens=100).usage.completion_tokens == 100


def test_usage_can_be_made_up_but_not_the_bill(serve, ask_gpt):
    provider = serve(Reply("Hello", usage={"prompt_tokens": -1, "completion_tokens": 10**9}))
    assert ask_gpt(provider).usage.completion_tokens == 10**9
    assert provider.output_tokens == 1


def test_tool_calls_cut_at_the_cap_are_cut_json(serve, ask_gpt, ask_claude):
    provider = serve(Reply(tool_calls=(SEARCH, READ)))
    choice = ask_gpt(provider, tools=OPENAI_TOOLS, max_tokens=4).choices[0]
    assert choice.finish_reason == "length"
    assert [c.function.arguments for c in choice.message.tool_calls] == ['{"query":']
    message = ask_claude(provider, tools=CLAUDE_TOOLS, max_tokens=4)
    assert [(block.name, block.input) for block in message.content] == [("search", {})]


def test_messages_tools_and_system_prompt_are_counted(serve, ask_gpt, ask_claude):
    provider = serve("ok")
    ask_gpt(provider)
    ask_gpt(provider, messages=[{"role": "system", "content": SENTENCE}, *HI])
    ask_gpt(provider, tools=OPENAI_TOOLS)
    ask_claude(provider)
    ask_claude(provider, system=SENTENCE)
    plain, system, tools, claude_plain, claude_system = (e.usage.input_tokens for e in provider.log)
    assert plain == 6  # 4 for the message, 1 for its role, 1 for "Hi"
    assert system == plain + 4 + 1 + 10
    assert tools == plain + 2 * 25
    assert claude_system == claude_plain + 10
