"""Which run is a task: one scope for each root run, joined by whatever runs inside it."""

from __future__ import annotations

import operator
import threading
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph

from budgetguard import Budget, current_scope, events
from budgetguard.testing import Reply, Request, ToolCall
from budgetguard_langchain import BudgetCallbackHandler

BUDGET = Budget("task", tokens=100_000, turns=20, usd="1")
OTHER = Budget("other", tokens=50_000, turns=10, usd="0.5")


class Notes(TypedDict):
    notes: Annotated[list[str], operator.add]


def two_tools_then_an_answer(request: Request) -> Reply:
    if any(message.get("role") == "tool" for message in request.messages):
        return Reply("Both are done.")
    if request.tools:
        calls = (ToolCall("ask", {"question": "one"}), ToolCall("ask", {"question": "two"}))
        return Reply(tool_calls=calls)
    return Reply("a fact")


def opened(books: Any) -> list[str]:
    return [each.path for each in books.of(events.Opened)]


def test_a_chain_inside_a_chain_joins_its_task(serve, chat, books):
    provider = serve("four")
    handler = BudgetCallbackHandler(BUDGET)
    inner = (chat(provider) | RunnableLambda(lambda message: message.text)).with_config(
        callbacks=[handler]
    )
    outer = RunnableLambda(lambda text: text + "?") | inner | inner
    assert outer.invoke("2+2", {"callbacks": [handler]}) == "four"
    assert opened(books) == ["task"]
    assert books.outcomes == ["completed"]
    books.agree_with(provider)


def test_a_chain_called_by_hand_inside_a_chain_joins_too(serve, chat, books):
    provider = serve("four")
    model = chat(provider)

    def twice(text: str) -> str:
        model.invoke(text)
        return model.invoke(text, {"callbacks": [BudgetCallbackHandler(BUDGET)]}).text

    RunnableLambda(twice).invoke("2+2", {"callbacks": [BudgetCallbackHandler(BUDGET)]})
    assert opened(books) == ["task"]
    books.agree_with(provider)


def test_an_agent_with_its_own_handler_in_a_node_joins_the_task_of_the_graph(
    serve, chat, lookup, books
):
    provider = serve("a note")
    handler = BudgetCallbackHandler(BUDGET)
    agent = create_agent(chat(provider), [lookup]).with_config(callbacks=[handler])

    def node(_: Notes) -> Notes:
        answer = agent.invoke({"messages": [("user", "go")]})
        return {"notes": [answer["messages"][-1].text]}

    graph = StateGraph(Notes)
    graph.add_node("one", node)
    graph.add_node("two", node)
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    graph.compile().invoke({"notes": []}, {"callbacks": [handler]})
    assert opened(books) == ["task"]
    books.agree_with(provider)


def test_each_root_run_is_a_task_of_its_own(serve, chat, books):
    provider = serve("four")
    chain = (chat(provider) | RunnableLambda(str)).with_config(
        callbacks=[BudgetCallbackHandler(BUDGET)]
    )
    chain.invoke("2+2")
    chain.invoke("2+2")
    assert [each.turns for each in books.tasks] == [1, 1]
    books.agree_with(provider)


def test_each_input_of_a_batch_is_a_task_of_its_own(serve, chat, books):
    provider = serve("four")
    chain = chat(provider) | RunnableLambda(str)
    chain.batch(["1", "2", "3"], {"callbacks": [BudgetCallbackHandler(BUDGET)]})
    assert [each.turns for each in books.tasks] == [1, 1, 1]
    books.agree_with(provider)


@pytest.mark.filterwarnings("ignore:Unexpected type for token usage")  # langchain-openai, adding
def test_two_prompts_of_one_generate_are_two_turns(serve, chat, books):
    provider = serve("four")
    with BUDGET.open() as task:
        result = chat(provider).generate(
            [[HumanMessage("1")], [HumanMessage("2")]], callbacks=[BudgetCallbackHandler(BUDGET)]
        )
    assert len(result.generations) == 2
    assert len(result.run) == 2
    assert task.spent.turns == provider.calls == 2
    books.agree_with(provider)


@pytest.mark.parametrize("how", ["config", "with_config", "constructor"])
def test_a_handler_may_be_given_in_three_places(how, name, serve, chat, books):
    provider, handler = serve("four"), BudgetCallbackHandler(BUDGET)
    if how == "config":
        chat(provider, name).invoke("2+2", {"callbacks": [handler]})
    elif how == "with_config":
        chat(provider, name).with_config(callbacks=[handler]).invoke("2+2")
    else:
        chat(provider, name, callbacks=[handler]).invoke("2+2")
    assert opened(books) == ["task"]
    assert provider.calls == 1
    books.agree_with(provider)


def test_an_agent_with_its_handler_in_its_config_is_one_task(serve, chat, books):
    provider = serve(two_tools_then_an_answer)
    seen: list[tuple[Any, int]] = []
    model = chat(provider)

    @tool
    def ask(question: str) -> str:
        """Ask another model."""
        seen.append((current_scope().path, threading.get_ident()))
        return model.invoke(question).text

    agent = create_agent(model, [ask]).with_config(callbacks=[BudgetCallbackHandler(BUDGET)])
    answer = agent.invoke({"messages": [("user", "Find two facts.")]})
    assert answer["messages"][-1].text == "Both are done."
    assert provider.calls == 4
    assert [path for path, _ in seen] == ["task", "task"]
    assert opened(books) == ["task"]
    books.agree_with(provider)


async def test_tools_of_an_async_agent_see_the_scope_too(serve, chat, books):
    provider = serve(two_tools_then_an_answer)
    seen: list[str] = []
    model = chat(provider)

    @tool
    async def ask(question: str) -> str:
        """Ask another model."""
        seen.append(current_scope().path)
        return (await model.ainvoke(question)).text

    agent = create_agent(model, [ask]).with_config(callbacks=[BudgetCallbackHandler(BUDGET)])
    await agent.ainvoke({"messages": [("user", "Find two facts.")]})
    assert seen == ["task", "task"]
    assert current_scope() is None
    assert provider.calls == 4
    books.agree_with(provider)


def test_a_budget_opened_inside_a_tool_is_a_child_of_the_task(serve, chat, books):
    provider = serve(two_tools_then_an_answer)
    model = chat(provider)

    @tool
    def ask(question: str) -> str:
        """Ask another model."""
        with Budget("fact", turns=1).open():
            return model.invoke(question).text

    agent = create_agent(model, [ask]).with_config(callbacks=[BudgetCallbackHandler(BUDGET)])
    agent.invoke({"messages": [("user", "Find two facts.")]})
    assert opened(books) == ["task", "task/fact", "task/fact"]
    children = [each for each in books.of(events.Closed) if each.path == "task/fact"]
    assert [each.turns for each in children] == [1, 1]
    assert [each.turns for each in books.tasks] == [4]
    books.agree_with(provider)


def test_parallel_branches_of_a_graph_share_the_task(name, serve, chat, books):
    provider = serve("a note")
    model = chat(provider, name)
    graph = StateGraph(Notes)
    for branch in ("a", "b", "c"):
        graph.add_node(branch, lambda _, branch=branch: {"notes": [model.invoke(branch).text]})
        graph.add_edge(START, branch)
        graph.add_edge(branch, END)
    app = graph.compile()
    answer = app.invoke({"notes": []}, {"callbacks": [BudgetCallbackHandler(BUDGET)]})
    assert answer["notes"] == ["a note"] * 3
    assert opened(books) == ["task"]
    assert [each.turns for each in books.tasks] == [3]
    books.agree_with(provider)


async def test_parallel_branches_of_a_chain_share_the_task(serve, chat, books):
    provider = serve("a note")
    chain = RunnableParallel(one=chat(provider), two=chat(provider), three=chat(provider))
    await chain.ainvoke("go", {"callbacks": [BudgetCallbackHandler(BUDGET)]})
    assert [each.turns for each in books.tasks] == [3]
    books.agree_with(provider)


def test_several_handlers_nest_in_the_order_of_the_list(serve, chat, books):
    provider = serve("four")
    handlers = [BudgetCallbackHandler(BUDGET), BudgetCallbackHandler(OTHER)]
    (chat(provider) | RunnableLambda(str)).invoke("2+2", {"callbacks": handlers})
    chat(provider).invoke("2+2", {"callbacks": handlers})
    assert opened(books) == ["task", "task/other", "task", "task/other"]
    assert [each.turns for each in books.of(events.Closed)] == [1, 1, 1, 1]
    books.agree_with(provider)


def test_a_handler_joins_an_open_scope_of_an_equal_budget(serve, chat, agree, books):
    provider = serve("four")
    equal = Budget("task", tokens=100_000, turns=20, usd="1")
    with BUDGET.open() as task:
        chat(provider).invoke("2+2", {"callbacks": [BudgetCallbackHandler(equal)]})
        chain = chat(provider) | RunnableLambda(str)
        chain.invoke("2+2", {"callbacks": [BudgetCallbackHandler(equal)]})
        agree(task, provider)
    assert opened(books) == ["task"]
    assert task.spent.turns == 2


def test_a_handler_of_another_budget_opens_a_child(serve, chat, agree, books):
    provider = serve("four")
    with BUDGET.open() as task:
        chat(provider).invoke("2+2", {"callbacks": [BudgetCallbackHandler(OTHER)]})
        agree(task, provider)
    assert opened(books) == ["task", "task/other"]
    assert task.own.turns == 0
