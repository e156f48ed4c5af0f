"""Agents inside `with budget.open():`, with no handler of their own, and calls that come late."""

from __future__ import annotations

import threading

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import dynamic_prompt
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda

from budgetguard import Budget, ScopeClosed, downgrade, effort, events
from budgetguard.testing import Reply, ToolCall
from budgetguard_langchain import BudgetCallbackHandler

SEARCHING = Reply("best I can say", (ToolCall("search", {"query": "b"}),))
GO = {"messages": [("user", "go")]}


def test_a_wrap_up_of_one_turn_is_a_last_answer(serve, chat, lookup, agree):
    provider = serve(SEARCHING)
    agent = create_agent(chat(provider), [lookup])
    with Budget("tax", tokens=100_000).open() as task:
        with Budget("wrap-up", turns=1).open(shield=True):
            answer = agent.invoke(GO)["messages"][-1]
    assert answer.text == "best I can say"
    assert [each.request.tools_off for each in provider.log] == [True]
    agree(task, provider)


def test_agents_side_by_side_in_one_scope_each_get_their_last_answer(serve, chat, lookup, agree):
    provider = serve(SEARCHING)
    agent = create_agent(chat(provider), [lookup])
    with Budget("two", turns=8).open() as task:
        states = agent.batch([GO, GO])
    assert [each["messages"][-1].text for each in states] == ["best I can say"] * 2
    assert task.spent.turns == 8
    agree(task, provider)


def test_a_system_prompt_that_grows_is_counted_anew(serve, chat, lookup, books):
    lengths = iter([10, 9_000])

    @dynamic_prompt
    def prompt(_request: object) -> str:
        return "context " * next(lengths)

    provider = serve([SEARCHING, "done"])
    agent = create_agent(chat(provider), [lookup], middleware=[prompt])
    agent.invoke(GO, {"callbacks": [BudgetCallbackHandler(Budget("rag", tokens=60_000))]})
    assert [each.overshoot_tokens for each in books.of(events.Settled)] == [0, 0]
    books.agree_with(provider)


def test_a_call_that_comes_after_its_task_is_refused(serve, chat):
    provider = serve("hi")
    model, over = chat(provider), threading.Event()
    refused: list[BaseException] = []
    threads: list[threading.Thread] = []

    def later(config: RunnableConfig) -> None:
        over.wait(10)
        for _ in range(3):
            try:
                model.invoke("late", config)
            except ScopeClosed as error:
                refused.append(error)

    def node(text: str, config: RunnableConfig) -> str:
        threads.append(threading.Thread(target=later, args=(config,)))
        threads[-1].start()
        return text

    handler = BudgetCallbackHandler(Budget("one", turns=1))
    (RunnableLambda(node) | RunnableLambda(str)).invoke("q", {"callbacks": [handler]})
    over.set()
    threads[0].join(10)
    assert (provider.requests, len(refused)) == (0, 3)


@pytest.mark.parametrize("vendor", ["gpt-4o", "claude-sonnet-4-5"])
def test_a_streamed_last_call_says_nothing_of_tools(vendor, serve, chat, lookup):
    provider = serve(SEARCHING)
    model = chat(provider, vendor).bind_tools([lookup])
    said = [
        HumanMessage("go"),
        AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "t1"}]),
        ToolMessage("nothing", tool_call_id="t1"),
    ]
    with Budget("t", turns=1).open():
        chunks = list(model.stream(said))
    assert "".join(chunk.text for chunk in chunks) == "best I can say"
    assert not any(chunk.tool_call_chunks for chunk in chunks)
    assert "tool_use" not in str([chunk.content for chunk in chunks])


def test_a_rung_that_does_not_think_is_asked_without_effort_and_within_its_maximum(serve, chat):
    provider = serve("hi")
    model = chat(provider, "gpt-5", reasoning_effort="high")
    budget = Budget("b", usd="5", policy=downgrade(), ladder=["gpt-4o-mini"])
    answer = model.invoke("hi", {"callbacks": [BudgetCallbackHandler(budget)]})
    (body,) = provider.bodies
    assert (body["model"], body["max_completion_tokens"]) == ("gpt-4o-mini", 4_096)
    assert "reasoning_effort" not in body
    assert answer.response_metadata["budgetguard"]["degraded"] is True


def test_an_effort_on_the_responses_api_is_lowered_where_the_caller_set_it(chat, serve):
    model = chat(serve("hi"), "gpt-5", reasoning={"effort": "high", "summary": "auto"})
    seen: list[dict[str, object]] = []
    kind = type(model)

    class Recording(kind):  # type: ignore[misc,valid-type]
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            seen.append(self._get_request_payload(messages, stop=stop, **kwargs))
            raise ConnectionError

    recording = Recording(**{name: getattr(model, name) for name in model.model_fields_set})
    budget = Budget("b", tokens=50_000, policy=effort("low"))
    with pytest.raises(ConnectionError):
        recording.invoke("hi", {"callbacks": [BudgetCallbackHandler(budget)]})
    assert seen[0]["reasoning"] == {"effort": "low", "summary": "auto"}
    assert seen[0]["max_output_tokens"] == 6_144
