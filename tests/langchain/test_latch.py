"""An ending holds: swallowing it, retrying and falling back pay for nothing more."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from budgetguard import Budget, BudgetExceeded, current_scope, events, fail, spent, stop, when
from budgetguard.testing import Reply, Request, ToolCall
from budgetguard_langchain import BudgetCallbackHandler

SEARCHING = Reply("The best I can say.", (ToolCall("search", {"query": "budget"}),))
GO = {"messages": [("user", "go")]}
FAIL = when(spent(1.0), fail())


def handlers(budget: Budget):
    return {"callbacks": [BudgetCallbackHandler(budget)]}


def test_a_canned_fallback_may_answer_but_nothing_more_is_paid(serve, chat, agree):
    provider = serve("four")
    chain = chat(provider).with_fallbacks([RunnableLambda(lambda _: "canned")])
    with Budget("task", turns=1).open() as task:
        BudgetCallbackHandler()
        answers = [chain.invoke("2+2") for _ in range(4)]
        agree(task, provider)
    assert answers[1:] == ["canned"] * 3
    assert provider.requests == 1
    assert task.outcome == "refused"


def test_a_fallback_model_is_refused_as_well(serve, chat, books):
    provider, other = serve("four"), serve("five")
    chain = chat(provider).with_fallbacks([chat(other), chat(other)]) | RunnableLambda(str)
    with pytest.raises(BudgetExceeded):
        (chain | chain).invoke("2+2", handlers(Budget("task", turns=1)))
    assert (provider.requests, other.requests) == (1, 0)
    books.agree_with(provider, other)


def test_an_error_caught_by_the_program_stays_refused(name, serve, chat, agree):
    provider = serve("four")
    model = chat(provider, name)
    budget = Budget("task", turns=5, usd="1", policy=when(spent(0.4, of="turns"), fail()))
    with budget.open() as task:
        BudgetCallbackHandler()
        for _ in range(10):
            try:
                model.invoke("2+2")
            except BudgetExceeded:
                continue
        agree(task, provider)
    assert provider.requests == 2
    assert task.outcome == "refused"


@pytest.mark.parametrize(
    "middleware",
    [
        lambda model: ModelRetryMiddleware(max_retries=3, initial_delay=0),
        lambda model: ModelFallbackMiddleware(model, model),
    ],
)
@pytest.mark.parametrize("form", ["invoke", "ainvoke", "stream"])
async def test_middleware_swallows_no_refusal(middleware, form, serve, chat, lookup, books):
    provider = serve(SEARCHING)
    model = chat(provider)
    agent = create_agent(model, [lookup], middleware=[middleware(model)])
    config = handlers(Budget("task", turns=2, policy=FAIL))
    with pytest.raises(BudgetExceeded):
        if form == "ainvoke":
            await agent.ainvoke(GO, config)
        else:
            agent.invoke(GO, config) if form == "invoke" else list(agent.stream(GO, config))
    assert provider.requests == 2
    assert len([each for each in books.decisions if each[0] == "refuse"]) == 1
    books.agree_with(provider)


def test_a_tool_node_swallows_no_refusal(serve, chat, books):
    provider = serve(
        lambda request: (
            Reply(tool_calls=(ToolCall("ask", {"question": "x"}),))
            if request.tools
            else Reply("a fact")
        )
    )
    model = chat(provider)

    @tool
    def ask(question: str) -> str:
        """Ask another model."""
        return model.invoke(question).text

    agent = create_agent(model, [ask])
    with pytest.raises(BudgetExceeded):
        agent.invoke(GO, handlers(Budget("task", turns=3, policy=FAIL)))
    assert provider.requests == 3
    assert books.outcomes == ["refused"]
    books.agree_with(provider)


def of_whom(request: Request) -> str:
    return "outer" if "delegate" in request.tools else "inner"


def busy(request: Request) -> Reply:
    """Both agents call their tool as long as they can."""
    if of_whom(request) == "outer":
        return Reply("outer answer", (ToolCall("delegate", {"work": "dig"}),))
    return Reply("inner answer", (ToolCall("search", {"query": "x"}),))


def outer_agent(provider, chat, lookup, results, budget=None):
    inner = create_agent(chat(provider), [lookup])

    @tool
    def delegate(work: str) -> str:
        """Have a sub-agent do it."""
        if budget is None:
            messages = inner.invoke({"messages": [("user", work)]})["messages"]
        else:
            with budget.open():
                messages = inner.invoke({"messages": [("user", work)]})["messages"]
        results.append(messages[-1])
        return messages[-1].text

    return create_agent(chat(provider), [delegate])


@pytest.mark.parametrize("turns", [2, 3, 4, 6])
@pytest.mark.parametrize("child", [None, Budget("child", turns=50)])
def test_the_outer_loop_gets_its_last_call_after_a_sub_agent(
    turns, child, serve, chat, lookup, books
):
    provider, results = serve(busy), []
    agent = outer_agent(provider, chat, lookup, results, child)
    answer = agent.invoke(GO, handlers(Budget("task", turns=turns)))
    assert answer["messages"][-1].text == "outer answer"
    assert provider.requests == turns
    last = provider.log[-1].request
    assert (of_whom(last), last.tools_off) == ("outer", True)
    assert results[-1].response_metadata["budgetguard"]["ended"] == "stop"
    books.agree_with(provider)


def test_a_sub_agent_with_a_smaller_budget_gives_its_own_last_answer(serve, chat, lookup, books):
    provider, results = serve(busy), []
    agent = outer_agent(provider, chat, lookup, results, Budget("child", turns=2))
    answer = agent.invoke(GO, handlers(Budget("task", turns=7)))
    assert [message.text for message in results] == ["inner answer", "inner answer"]
    assert answer["messages"][-1].text == "outer answer"
    assert provider.requests == 7
    children = [each for each in books.of(events.Closed) if each.path == "task/child"]
    assert [each.outcome for each in children] == ["finished", "finished"]
    books.agree_with(provider)


def test_one_refused_child_does_not_close_its_parent(serve, chat, agree):
    provider = serve("four")
    BudgetCallbackHandler()
    with Budget("tenant", turns=10).open() as tenant:
        for _ in range(3):
            with Budget("task", turns=1).open(), pytest.raises(BudgetExceeded):
                chat(provider).invoke("1")
                chat(provider).invoke("2")
        chat(provider).invoke("3")
        agree(tenant, provider)
    assert provider.requests == 4


def test_a_refused_sub_agent_raises_where_no_last_call_is_owed(serve, chat, lookup, books):
    provider, results = serve(busy), []
    agent = outer_agent(provider, chat, lookup, results)
    with pytest.raises(BudgetExceeded):
        agent.invoke(GO, handlers(Budget("task", turns=3, policy=FAIL)))
    assert provider.requests == 3
    assert results == []
    books.agree_with(provider)


def test_stop_in_a_sub_agent_stops_the_outer_one_too(serve, chat, lookup, books):
    provider, results = serve(busy), []
    agent = outer_agent(provider, chat, lookup, results)
    policy = when(spent(1.0), stop())
    answer = agent.invoke(GO, handlers(Budget("task", turns=3, policy=policy)))
    assert answer["messages"][-1].response_metadata["budgetguard"]["ended"] == "stop"
    assert provider.requests == 3
    assert books.outcomes == ["stopped"]
    assert current_scope() is None
    books.agree_with(provider)
