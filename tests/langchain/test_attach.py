"""attach(): a guarded copy of a model, a runnable with a handler, and nothing patched."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda

from budgetguard import Budget, BudgetExceeded, events
from budgetguard.testing import Reply, Request, ToolCall
from budgetguard_langchain import BudgetCallbackHandler, attach

BUDGET = Budget("task", tokens=100_000, turns=10, usd="1")


def test_a_guarded_copy_is_counted_in_every_form(call, name, serve, chat, books):
    provider = serve("four")
    call(attach(chat(provider, name), BUDGET), "2+2", {})
    assert provider.calls == 1
    assert books.outcomes == ["completed"]
    books.agree_with(provider)


def test_the_argument_stays_untouched(name, serve, chat, books):
    provider = serve("four")
    model = chat(provider, name)
    kind, fields = type(model), model.model_dump()
    guarded = attach(model, BUDGET)
    assert guarded is not model
    assert type(model) is kind
    assert model.model_dump() == fields
    model.invoke("2+2")
    assert provider.calls == 1
    assert books.events == []


def test_a_guarded_copy_is_still_what_it_was(name, serve, chat):
    model = chat(serve("four"), name)
    guarded = attach(model, BUDGET)
    assert isinstance(guarded, type(model))
    assert type(guarded).__name__ == type(model).__name__
    assert guarded.model_dump() == model.model_dump()
    assert guarded.profile == model.profile
    assert guarded._llm_type == model._llm_type


def test_a_guarded_copy_shares_the_clients(serve, chat):
    model = chat(serve("four"))
    guarded = attach(model, BUDGET)
    assert guarded.client is model.client
    assert guarded.async_client is model.async_client


def test_each_call_of_a_guarded_model_is_a_task(serve, chat, books):
    provider = serve("four")
    guarded = attach(chat(provider), Budget("once", turns=1))
    guarded.invoke("2+2")
    guarded.invoke("2+2")
    assert [each.turns for each in books.tasks] == [1, 1]
    books.agree_with(provider)


def test_a_guarded_model_is_bound_and_structured_like_any_other(serve, chat, lookup, books):
    provider = serve("four")
    guarded = attach(chat(provider), BUDGET)
    guarded.bind_tools([lookup]).invoke("2+2")
    guarded.bind(stop=["x"]).invoke("2+2")
    guarded.with_retry().invoke("2+2")
    assert [each.turns for each in books.tasks] == [1, 1, 1]
    books.agree_with(provider)


def test_a_guarded_model_inside_a_task_joins_it(serve, chat, books):
    provider = serve("four")
    chain = attach(chat(provider), BUDGET) | RunnableLambda(str)
    chain.invoke("2+2", {"callbacks": [BudgetCallbackHandler(BUDGET)]})
    assert [each.path for each in books.of(events.Opened)] == ["task"]
    books.agree_with(provider)


def test_two_budgets_attached_to_one_model_nest(serve, chat, books):
    provider = serve("four")
    model = attach(attach(chat(provider), Budget("inner", turns=2)), Budget("outer", turns=2))
    model.invoke("2+2")
    closed = {each.path: each.turns for each in books.of(events.Closed)}
    assert provider.calls == 1
    assert sorted(closed.values()) == [1, 1]
    books.agree_with(provider)


def test_an_agent_of_a_guarded_model_works_in_an_open_scope(serve, chat, lookup, agree):
    def once(request: Request) -> Reply:
        if any(message.get("role") == "tool" for message in request.messages):
            return Reply("done")
        return Reply(tool_calls=(ToolCall("search", {"query": "x"}),))

    provider = serve(once)
    agent = create_agent(attach(chat(provider), BUDGET), [lookup])
    with BUDGET.open() as task:
        agent.invoke({"messages": [("user", "go")]})
        agree(task, provider)
    assert task.spent.turns == 2


def test_a_runnable_gets_a_handler_and_is_left_as_it_was(run_chain, serve, chat, books):
    provider = serve("four")
    chain = chat(provider) | RunnableLambda(lambda message: message)
    guarded = attach(chain, BUDGET)
    run_chain(guarded, "2+2", {})
    assert books.outcomes == ["completed"]
    books.agree_with(provider)
    chain.invoke("2+2")
    assert provider.calls == 2
    assert len(books.tasks) == 1


def test_an_agent_can_be_attached_to(serve, chat, lookup, books):
    provider = serve("four")
    agent = create_agent(chat(provider), [lookup])
    guarded = attach(agent, BUDGET)
    assert type(guarded) is type(agent)
    guarded.invoke({"messages": [("user", "2+2")]})
    assert books.outcomes == ["completed"]
    books.agree_with(provider)


def test_a_guarded_model_refuses_when_its_scope_is_used_up(name, serve, chat):
    provider = serve("four")
    guarded = attach(chat(provider, name), Budget("one", turns=1))
    with Budget("one", turns=1).open() as task:
        guarded.invoke("2+2")
        with pytest.raises(BudgetExceeded):
            guarded.invoke("2+2")
    assert provider.calls == 1
    assert task.outcome == "refused"


def test_only_runnables_and_budgets_are_taken(serve, chat):
    with pytest.raises(TypeError, match="runnable"):
        attach(object(), BUDGET)
    with pytest.raises(TypeError, match="Budget"):
        attach(chat(serve("four")), "task")
