"""Every form of call, of every kind of runnable, of both vendors, is counted to the token."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from budgetguard import Budget
from budgetguard.testing import Reply, Request, ToolCall
from budgetguard_langchain import BudgetCallbackHandler

BUDGET = Budget("task", tokens=100_000, turns=10, usd="1")


def using_a_tool_once(request: Request) -> Reply:
    if any(
        message["role"] == "tool" or "tool_result" in str(message) for message in request.messages
    ):
        return Reply("It is done.")
    return Reply(tool_calls=(ToolCall("search", {"query": "budget"}),))


def test_a_bare_model_is_one_turn_of_one_task_in_every_form(call, name, serve, chat, books):
    provider = serve("The answer is four.")
    call(chat(provider, name), "What is 2+2?", {"callbacks": [BudgetCallbackHandler(BUDGET)]})
    assert provider.calls == 1
    assert books.outcomes == ["completed"]
    books.agree_with(provider)


def test_a_chain_is_one_task_in_every_form(run_chain, name, serve, chat, books):
    provider = serve("The answer is four.")
    chain = (
        ChatPromptTemplate.from_messages([("user", "{question}")])
        | chat(provider, name)
        | StrOutputParser()
    )
    run_chain(chain, {"question": "What is 2+2?"}, {"callbacks": [BudgetCallbackHandler(BUDGET)]})
    assert provider.calls == 1
    assert books.outcomes == ["completed"]
    books.agree_with(provider)


def test_an_agent_is_one_task_in_every_form(call, name, serve, chat, lookup, books):
    provider = serve(using_a_tool_once)
    agent = create_agent(chat(provider, name), [lookup])
    call(
        agent,
        {"messages": [("user", "What of it?")]},
        {"callbacks": [BudgetCallbackHandler(BUDGET)]},
    )
    assert provider.calls == 2
    assert books.outcomes == ["completed"]
    books.agree_with(provider)
