"""Where a handler takes its budget from: the open scope, a callable, an account of many runs."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver

from budgetguard import Budget, NoOpenBudget, events
from budgetguard_langchain import BudgetCallbackHandler, RunInfo

BUDGET = Budget("task", tokens=100_000, turns=20, usd="1")
OTHER = Budget("other", tokens=50_000, turns=10, usd="0.5")


def opened(books: Any) -> list[str]:
    return [each.path for each in books.of(events.Opened)]


def failing(run: RunInfo) -> Budget:
    raise LookupError("no such workflow")


def test_a_handler_without_a_budget_uses_the_open_scope(call, serve, chat, agree, books):
    provider = serve("four")
    with BUDGET.open() as task:
        call(chat(provider), "2+2", {"callbacks": [BudgetCallbackHandler()]})
        agree(task, provider)
    assert opened(books) == ["task"]


def test_a_model_called_in_an_open_scope_needs_no_handler(call, serve, chat, agree):
    BudgetCallbackHandler()  # what installs the guard
    provider = serve("four")
    with BUDGET.open() as task:
        call(chat(provider), "2+2", {})
        agree(task, provider)
    assert task.spent.turns == 1


def test_a_handler_without_a_budget_raises_where_no_scope_is_open(call, serve, chat):
    provider = serve("four")
    with pytest.raises(NoOpenBudget):
        call(chat(provider), "2+2", {"callbacks": [BudgetCallbackHandler()]})
    assert provider.requests == 0


def test_a_chain_with_a_handler_without_a_budget_raises_too(serve, chat):
    provider = serve("four")
    chain = chat(provider) | RunnableLambda(str)
    with pytest.raises(NoOpenBudget):
        chain.invoke("2+2", {"callbacks": [BudgetCallbackHandler()]})
    assert provider.requests == 0


def test_the_open_scope_of_a_handler_without_a_budget_reaches_the_whole_chain(serve, chat, agree):
    provider = serve("four")
    chain = RunnableParallel(one=chat(provider), two=chat(provider))
    with BUDGET.open() as task:
        chain.invoke("2+2", {"callbacks": [BudgetCallbackHandler()]})
        agree(task, provider)
    assert task.spent.turns == 2


def test_a_callable_chooses_the_budget_by_what_it_is_told_of_the_run(serve, chat, books):
    provider = serve("four")
    told: list[RunInfo] = []
    budgets = {"triage": BUDGET, "tax": OTHER}

    def choose(run: RunInfo) -> Budget:
        told.append(run)
        return budgets[run.metadata["workflow"]]

    chain = (chat(provider) | RunnableLambda(str)).with_config(run_name="helpdesk")
    chain.invoke(
        "What is 2+2?",
        {
            "callbacks": [BudgetCallbackHandler(choose)],
            "metadata": {"workflow": "tax"},
            "tags": ["night"],
        },
    )
    assert opened(books) == ["other"]
    assert [(each.name, each.tags, each.prompt) for each in told] == [
        ("helpdesk", ("night",), "What is 2+2?")
    ]


def test_a_callable_that_returns_none_leaves_the_run_unguarded(call, serve, chat, books):
    provider = serve("four")
    call(chat(provider), "2+2", {"callbacks": [BudgetCallbackHandler(lambda run: None)]})
    assert provider.calls == 1
    assert books.events == []


def test_an_error_of_the_callable_reaches_the_user(call, serve, chat):
    provider = serve("four")

    with pytest.raises(LookupError, match="no such workflow"):
        call(chat(provider), "2+2", {"callbacks": [BudgetCallbackHandler(failing)]})
    assert provider.requests == 0


def test_an_error_of_the_callable_reaches_the_user_of_an_agent(serve, chat, lookup):
    provider = serve("four")

    agent = create_agent(chat(provider), [lookup])
    with pytest.raises(LookupError, match="no such workflow"):
        agent.invoke(
            {"messages": [("user", "go")]}, {"callbacks": [BudgetCallbackHandler(failing)]}
        )
    assert provider.requests == 0


def test_a_thread_of_many_runs_is_one_account(serve, chat, lookup, books):
    provider = serve("four")
    handler = BudgetCallbackHandler(Budget("thread account", turns=3), id=lambda run: run.thread_id)
    agent = create_agent(chat(provider), [lookup], checkpointer=InMemorySaver())
    agent = agent.with_config(callbacks=[handler])
    config = {"configurable": {"thread_id": "order-42"}}
    agent.invoke({"messages": [("user", "one")]}, config)
    agent.invoke({"messages": [("user", "two")]}, config)
    agent.invoke({"messages": [("user", "three")]}, {"configurable": {"thread_id": "order-43"}})
    assert [(each.scope_id, each.turns) for each in books.tasks] == [
        ("order-42", 1),
        ("order-42", 2),
        ("order-43", 1),
    ]


def test_an_error_of_the_second_handler_closes_the_scope_of_the_first(serve, chat, books):
    provider = serve("four")
    chain = chat(provider) | RunnableLambda(str)
    handlers = [BudgetCallbackHandler(BUDGET), BudgetCallbackHandler(failing)]
    with pytest.raises(LookupError, match="no such workflow"):
        chain.invoke("2+2", {"callbacks": handlers})
    with pytest.raises(LookupError, match="no such workflow"):
        chat(provider).invoke("2+2", {"callbacks": handlers})
    assert provider.requests == 0
    assert opened(books) == ["task", "task"]
    assert [each.turns for each in books.tasks] == [0, 0]


def test_none_leaves_a_whole_chain_unguarded(run_chain, serve, chat, books):
    provider = serve("four")
    chain = chat(provider) | RunnableLambda(str)
    run_chain(chain, "2+2", {"callbacks": [BudgetCallbackHandler(lambda run: None)]})
    assert provider.calls == 1
    assert books.events == []


def test_a_callable_is_told_the_thread_of_an_agent(serve, chat, lookup):
    told: list[str | None] = []

    def choose(run: RunInfo) -> Budget:
        told.append(run.thread_id)
        return BUDGET

    agent = create_agent(chat(serve("four")), [lookup])
    agent.invoke(
        {"messages": [("user", "go")]},
        {"callbacks": [BudgetCallbackHandler(choose)], "configurable": {"thread_id": "order-42"}},
    )
    assert told == ["order-42"]
