"""No steered request is one that the vendor refuses: models x plans x tools x streams."""

from __future__ import annotations

from itertools import product

import pytest
from langchain.agents import create_agent

from budgetguard import Budget, cap_output, effort, finish
from budgetguard.testing import Reply, Request, ToolCall
from budgetguard_langchain import BudgetCallbackHandler

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")  # old Claude models

LEVELS = ["none", "minimal", "low", "medium", "high", "xhigh", "max"]
PLANS = [
    *({"policy": effort(level)} for level in LEVELS),
    {"policy": cap_output(40)},
    {"policy": effort("low") + cap_output(1200)},
    {"policy": effort("none") + cap_output(1500)},
    {"policy": finish()},
    {"output_tokens": 700},
    {"output_tokens": 1600, "policy": effort("low")},
    {"tokens": 1_000_000},
    {"reasoning_tokens": 1100, "policy": effort("minimal")},
]
ENABLED = {"thinking": {"type": "enabled", "budget_tokens": 6000}, "max_tokens": 16_000}
ADAPTIVE = {"thinking": {"type": "adaptive"}}
OFF = {"thinking": {"type": "disabled"}}

MODELS = [
    ("gpt-4o", {}),
    ("gpt-4o", {"temperature": 0, "max_tokens": 100}),
    ("gpt-4.1-mini", {"max_tokens": 32_000}),
    ("o3", {}),
    ("o4-mini", {"reasoning_effort": "high"}),
    ("gpt-5", {}),
    ("gpt-5", {"reasoning_effort": "high", "max_tokens": 2000}),
    ("gpt-5-nano", {"reasoning_effort": "minimal"}),
    ("gpt-5.1", {}),
    ("gpt-5.1", {"reasoning_effort": "high"}),
    ("gpt-5.2", {"reasoning_effort": "xhigh"}),
    ("gpt-5.4", {}),
    ("gpt-5.6", {"reasoning_effort": "none"}),
    ("unknown-model", {}),
    ("claude-3-7-sonnet-latest", ENABLED),
    ("claude-opus-4-1", ENABLED),
    ("claude-haiku-4-5", {}),
    ("claude-sonnet-4-5", {"temperature": 0}),
    ("claude-sonnet-4-5", ENABLED),
    ("claude-sonnet-4-5", OFF),
    ("claude-opus-4-5", {}),
    ("claude-opus-4-5", {**ENABLED, "effort": "high"}),
    ("claude-opus-4-6", {}),
    ("claude-opus-4-6", ENABLED),
    ("claude-opus-4-6", {**ADAPTIVE, "effort": "max"}),
    ("claude-opus-4-7", {**ADAPTIVE, "effort": "xhigh"}),
    ("claude-sonnet-5", {}),
    ("claude-opus-5", {}),
    ("claude-opus-5", {"effort": "max"}),
    ("claude-opus-5", OFF),
    ("claude-fable-5", {"effort": "high"}),
    ("claude-opus-5-5", {}),
]


def refusals(provider) -> list[object]:
    return [exchange.request.body for exchange in provider.log if exchange.status != 200]


@pytest.mark.parametrize(("model", "fields"), MODELS)
def test_the_vendor_accepts_every_steered_request(model, fields, serve, chat, lookup):
    provider = serve(Reply("four", reasoning_tokens=200))
    plain = chat(provider, model, **fields)
    for runnable in (plain, plain.bind_tools([lookup])):
        runnable.invoke("go")
    assert provider.calls == 2, "the vendor refuses it unguarded"
    for plan, tools, stream in product(PLANS, (False, True), (False, True)):
        runnable = plain.bind_tools([lookup]) if tools else plain
        config = {"callbacks": [BudgetCallbackHandler(Budget("task", **plan))]}
        list(runnable.stream("go", config)) if stream else runnable.invoke("go", config)
    assert refusals(provider) == []
    assert provider.calls == 2 + 4 * len(PLANS)


@pytest.mark.parametrize(("model", "fields"), MODELS)
def test_the_vendor_accepts_every_turn_of_a_steered_loop(model, fields, serve, chat, lookup):
    def searching(request: Request) -> Reply:
        return Reply("done", (ToolCall("search", {"query": "x"}),), reasoning_tokens=200)

    provider = serve(searching)
    agent = create_agent(chat(provider, model, **fields), [lookup])
    for plan in ({"policy": effort("low") + finish_at(3)}, {"turns": 3}, {"policy": slower()}):
        config = {"callbacks": [BudgetCallbackHandler(Budget("task", **plan))]}
        answer = agent.invoke({"messages": [("user", "go")]}, config)
        assert answer["messages"][-1].text == "done"
    assert refusals(provider) == []
    assert provider.calls == 9


def finish_at(turn):
    def policy(state):
        return finish()(state) if state.turn >= turn else effort("max")(state)

    return policy


def slower():
    """Less effort with every turn, in the middle of a tool loop."""

    def policy(state):
        level = {1: "high", 2: "low", 3: "none"}.get(state.turn, "none")
        return (effort(level) + finish_at(3))(state)

    return policy
