"""The effort on the wire: what the policy allows, never above what the caller asked for."""

from __future__ import annotations

import pytest

from budgetguard import Budget, effort, events
from budgetguard.testing import Reply, Request
from budgetguard_langchain import BudgetCallbackHandler

THINKING = Reply("four", reasoning_tokens=3000)


def handler(level: str, **limits):
    return {"callbacks": [BudgetCallbackHandler(Budget("task", policy=effort(level), **limits))]}


def read(provider) -> Request:
    return provider.log[-1].request


@pytest.mark.parametrize(
    ("model", "fields", "level", "sent"),
    [
        ("gpt-5", {}, "low", "low"),
        ("gpt-5", {}, "minimal", "minimal"),
        ("gpt-5", {}, "none", "minimal"),
        ("gpt-5", {}, "medium", None),
        ("gpt-5", {}, "high", None),
        ("gpt-5", {"reasoning_effort": "high"}, "low", "low"),
        ("gpt-5", {"reasoning_effort": "high"}, "medium", "medium"),
        ("gpt-5", {"reasoning_effort": "high"}, "max", "high"),
        ("gpt-5", {"reasoning_effort": "minimal"}, "low", "minimal"),
        ("gpt-5.2", {"reasoning_effort": "none"}, "low", "none"),
        ("gpt-5.2", {"reasoning_effort": "xhigh"}, "low", "low"),
        ("gpt-5.2", {}, "low", None),
        ("gpt-5.4", {"reasoning_effort": "high"}, "low", "low"),
        ("gpt-5.5", {}, "low", "low"),
        ("gpt-5-2025-08-07", {}, "low", "low"),
        ("o3", {}, "minimal", "low"),
        ("gpt-4o", {}, "low", None),
        ("gpt-4o", {}, "none", None),
        ("my-own-model", {}, "low", None),
        ("my-own-model", {"reasoning_effort": "high"}, "low", "high"),
        ("claude-opus-4-5", {}, "low", "low"),
        ("claude-opus-4-5", {}, "none", "low"),
        ("claude-opus-4-5", {"effort": "medium"}, "low", "low"),
        ("claude-opus-4-5", {"effort": "low"}, "medium", "low"),
        ("claude-opus-4-6", {"effort": "max"}, "medium", "medium"),
        ("claude-opus-5", {}, "low", "low"),
        ("claude-opus-5", {"reasoning_effort": "xhigh"}, "high", "high"),
        ("claude-sonnet-4-5", {}, "low", None),
        ("claude-haiku-4-5", {}, "low", None),
    ],
)
@pytest.mark.parametrize("form", ["invoke", "stream"])
def test_the_effort_sent_is_the_lower_one(model, fields, level, sent, form, serve, chat):
    provider = serve("four")
    client = chat(provider, model, **fields)
    config = handler(level, turns=5)
    list(client.stream("go", config)) if form == "stream" else client.invoke("go", config)
    assert read(provider).effort == sent
    assert provider.requests == provider.calls == 1


@pytest.mark.parametrize(
    ("model", "kwargs", "sent"),
    [
        ("gpt-5", {"reasoning_effort": "high"}, "low"),
        ("gpt-5", {"reasoning_effort": "minimal"}, "minimal"),
        ("claude-opus-4-5", {"effort": "high"}, "low"),
        ("claude-opus-4-5", {"reasoning_effort": "high"}, "low"),
        ("claude-opus-4-5", {"output_config": {"effort": "high"}}, "low"),
        ("claude-opus-4-6", {"effort": "low"}, "low"),
    ],
)
def test_an_effort_given_with_the_call_is_lowered_too(model, kwargs, sent, serve, chat):
    provider = serve("four")
    chat(provider, model).bind(**kwargs).invoke("go", handler("low", turns=5))
    assert read(provider).effort == sent
    assert provider.calls == 1


def test_an_effort_lowered_once_is_sent_in_every_form(call, serve, chat, books):
    provider = serve(THINKING)
    call(chat(provider, "gpt-5"), "go", handler("low", tokens=50_000, usd="1"))
    assert read(provider).effort == "low"
    assert provider.reasoning_tokens == 3000
    assert books.outcomes == ["degraded"]
    assert ("effort", "medium", "low") in books.decisions
    books.agree_with(provider)


@pytest.mark.parametrize("level", ["low", "medium"])
def test_gpt_5_4_gets_no_effort_with_its_tools_on_chat_completions(level, serve, chat, lookup):
    provider = serve("four")
    model = chat(provider, "gpt-5.4").bind_tools([lookup])
    model.invoke("go", handler(level, turns=5))
    assert "reasoning_effort" not in provider.bodies[0]
    assert provider.requests == provider.calls == 1


def test_gpt_5_keeps_a_lower_effort_with_its_tools(serve, chat, lookup):
    provider = serve("four")
    chat(provider, "gpt-5").bind_tools([lookup]).invoke("go", handler("low", turns=5))
    assert read(provider).effort == "low"


@pytest.mark.parametrize("model", ["claude-opus-4-5", "claude-opus-4-6", "claude-opus-5"])
def test_an_effort_never_turns_thinking_on(model, serve, chat):
    provider = serve(THINKING)
    unguarded = chat(provider, model)
    unguarded.invoke("go")
    unguarded.invoke("go", handler("low", turns=5))
    before, after = provider.log[0].request, provider.log[1].request
    assert (after.effort, after.thinks) == ("low", before.thinks)
    assert after.body.get("thinking") == before.body.get("thinking")
    assert after.body["output_config"] == {"effort": "low"}


@pytest.mark.parametrize(
    ("budget", "level", "sent"),
    [
        (8000, "low", {"type": "enabled", "budget_tokens": 2048}),
        (8000, "minimal", {"type": "enabled", "budget_tokens": 1024}),
        (8000, "none", {"type": "disabled"}),
        (8000, "high", {"type": "enabled", "budget_tokens": 8000}),
        (1024, "low", {"type": "enabled", "budget_tokens": 1024}),
        (1500, "minimal", {"type": "enabled", "budget_tokens": 1024}),
    ],
)
@pytest.mark.parametrize("form", ["invoke", "stream"])
def test_a_thinking_budget_follows_the_effort(budget, level, sent, form, serve, chat):
    provider = serve(THINKING)
    thinking = {"type": "enabled", "budget_tokens": budget}
    client = chat(provider, "claude-sonnet-4-5", max_tokens=16_000, thinking=thinking)
    config = handler(level, turns=5)
    list(client.stream("go", config)) if form == "stream" else client.invoke("go", config)
    assert read(provider).body["thinking"] == sent
    assert client.thinking == thinking
    assert provider.requests == provider.calls == 1


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        (4000, {"type": "enabled", "budget_tokens": 3488}),
        (1536, {"type": "enabled", "budget_tokens": 1024}),
        (1535, {"type": "disabled"}),
        (100, {"type": "disabled"}),
    ],
)
def test_a_thinking_budget_leaves_room_for_the_answer_or_is_turned_off(
    limit, sent, call, serve, chat, books
):
    provider = serve(THINKING)
    thinking = {"type": "enabled", "budget_tokens": 8000}
    client = chat(provider, "claude-sonnet-4-5", max_tokens=16_000, thinking=thinking)
    config = {"callbacks": [BudgetCallbackHandler(Budget("task", output_tokens=limit))]}
    call(client, "go", config)
    assert read(provider).body["thinking"] == sent
    assert read(provider).body["max_tokens"] == limit
    assert provider.requests == provider.calls == 1
    books.agree_with(provider)


def test_a_thinking_budget_given_with_the_call_is_clamped_too(serve, chat):
    provider = serve(THINKING)
    thinking = {"type": "enabled", "budget_tokens": 8000}
    client = chat(provider, "claude-sonnet-4-5", max_tokens=16_000).bind(thinking=thinking)
    client.invoke("go", handler("low", turns=5))
    assert read(provider).body["thinking"] == {"type": "enabled", "budget_tokens": 2048}


def test_the_effort_of_a_task_never_goes_up_again(serve, chat, agree):
    levels = {1: "medium", 2: "low", 3: "high", 4: "medium"}
    budget = Budget(
        "task", turns=5, policy=lambda state: effort(levels.get(state.turn, "max"))(state)
    )
    provider = serve("four")
    BudgetCallbackHandler()  # what installs the guard
    with budget.open():
        for _ in range(4):
            chat(provider, "gpt-5", reasoning_effort="high").invoke("go")
    sent = [exchange.request.effort for exchange in provider.log]
    assert sent == ["medium", "low", "low", "low"]


def test_nothing_of_the_reply_is_lost_on_what_was_done(serve, chat):
    provider = serve(THINKING)
    answer = chat(provider, "gpt-5").invoke("go", handler("low", turns=5))
    said = answer.response_metadata["budgetguard"]
    assert said["asked_model"] == said["used_model"] == "gpt-5"
    assert said["asked_effort"] == "medium"
    assert said["degraded"] is True
    assert said["final"] is False


def test_a_cheaper_model_of_the_ladder_is_called_and_billed(call, serve, chat, books):
    from budgetguard import downgrade

    provider = serve("four")
    budget = Budget("task", usd="1", policy=downgrade(), ladder=["gpt-4o-mini"])
    call(chat(provider), "go", {"callbacks": [BudgetCallbackHandler(budget)]})
    assert provider.bodies[0]["model"] == "gpt-4o-mini"
    assert ("downgrade", "gpt-4o", "gpt-4o-mini") in books.decisions
    assert books.outcomes == ["degraded"]
    assert [each.model for each in books.of(events.Settled)] == ["gpt-4o-mini"]
    books.agree_with(provider)
