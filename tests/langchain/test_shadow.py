"""Shadow mode: everything is counted and recorded, nothing is changed; the emergency switch."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent

from budgetguard import Budget, effort, events, fail, observe, spent, stop, when
from budgetguard.testing import Reply, Request, ToolCall
from budgetguard_langchain import BudgetCallbackHandler

GO = {"messages": [("user", "go")]}


def three_searches(request: Request) -> Reply:
    results = sum("tool_result" in str(m) or m.get("role") == "tool" for m in request.messages)
    if results < 3:
        return Reply("x", (ToolCall("search", {"query": "q"}, id=f"call_{results}"),))
    return Reply("done")


def watched(**fields):
    return {"callbacks": [BudgetCallbackHandler(Budget("task", **fields))]}


def observed(books):
    decided = books.of(events.Decided)
    assert all(each.observed for each in decided)
    return [each.decision for each in decided]


@pytest.mark.parametrize("model", ["gpt-5", "gpt-4o", "claude-sonnet-4-5", "claude-opus-4-5"])
@pytest.mark.parametrize("form", ["invoke", "stream"])
def test_observing_changes_nothing_on_the_wire(model, form, serve, chat, lookup, books):
    provider = serve(three_searches)
    agent = create_agent(chat(provider, model), [lookup])
    policy = observe(effort("low") + when(spent(0.5), stop()))
    plain, shadow = {}, watched(turns=2, tokens=600, usd="0.001", policy=policy)
    for config in (plain, shadow):
        list(agent.stream(GO, config)) if form == "stream" else agent.invoke(GO, config)
    bodies = provider.bodies
    assert len(bodies) == 8
    assert bodies[:4] == bodies[4:]


def test_observing_counts_everything_in_every_form(call, serve, chat, lookup, books):
    provider = serve(three_searches)
    agent = create_agent(chat(provider), [lookup])
    call(agent, GO, watched(turns=2, usd="0.001", policy=observe()))
    assert provider.calls == 4
    assert books.outcomes == ["completed"]
    books.agree_with(provider)


@pytest.mark.parametrize(
    ("inner", "decisions"),
    [
        (None, ["finish", "refuse", "refuse"]),
        (when(spent(1.0), fail()), ["refuse", "refuse"]),
        (when(spent(1.0), stop()), ["stop", "stop"]),
        (effort("low"), ["effort", "refuse", "refuse"]),
    ],
)
def test_observing_tells_what_it_would_have_done(inner, decisions, serve, chat, lookup, books):
    provider = serve(three_searches)
    agent = create_agent(chat(provider, "gpt-5"), [lookup])
    agent.invoke(GO, watched(turns=2, policy=observe(inner)))
    assert provider.calls == 4
    assert observed(books)[-len(decisions) :] == decisions
    books.agree_with(provider)


def test_observing_inside_an_enforced_budget_still_obeys_the_outer_one(serve, chat, books):
    provider = serve("four")
    model = chat(provider, "gpt-5")
    with Budget("outer", turns=9, policy=effort("low")).open():
        model.invoke("2+2", watched(turns=1, policy=observe(effort("minimal"))))
    assert provider.log[0].request.effort == "low"
    books.agree_with(provider)


def test_without_any_limit_a_budget_only_measures(name, serve, chat, books):
    provider = serve("four")
    model = chat(provider, name)
    model.invoke("2+2")
    model.invoke("2+2", {"callbacks": [BudgetCallbackHandler(Budget("task"))]})
    plain, guarded = provider.bodies
    assert guarded == plain
    assert [each.turns for each in books.tasks] == [1]
