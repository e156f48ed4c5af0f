"""How a budget ends: a last answer, a typed message, or an error that nobody swallows."""

from __future__ import annotations

import pickle

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.errors import GraphBubbleUp

from budgetguard import Budget, BudgetExceeded, effort, events, fail, spent, stop, when
from budgetguard.testing import Reply, ToolCall
from budgetguard_langchain import BudgetCallbackHandler

SEARCHING = Reply("The best I can say.", (ToolCall("search", {"query": "budget"}),))
GO = {"messages": [("user", "go")]}
STOP = when(spent(1.0), stop())
FAIL = when(spent(1.0), fail())


def tools_are_off(request) -> bool:
    return request.tools == ("search",) and request.tools_off


def config(**fields):
    return {"callbacks": [BudgetCallbackHandler(Budget("task", **fields))]}


@pytest.mark.parametrize("turns", [1, 3])
def test_the_last_turn_of_an_agent_is_an_answer(turns, call, name, serve, chat, lookup, books):
    provider = serve(SEARCHING)
    agent = create_agent(chat(provider, name), [lookup])
    call(agent, GO, config(turns=turns))
    requests = [exchange.request for exchange in provider.log]
    assert [tools_are_off(each) for each in requests] == [False] * (turns - 1) + [True]
    assert ["last answer" in each.prompt for each in requests] == [False] * (turns - 1) + [True]
    assert books.outcomes == ["finished"]
    books.agree_with(provider)


def test_the_last_turn_is_said_in_the_dialect_of_each_vendor(name, serve, chat, lookup):
    provider = serve(SEARCHING)
    answer = create_agent(chat(provider, name), [lookup]).invoke(GO, config(turns=2))
    last = answer["messages"][-1]
    off = {"type": "none"} if name.startswith("claude") else "none"
    assert provider.bodies[-1]["tool_choice"] == off
    assert len(provider.bodies[-1]["tools"]) == 1
    assert last.text == "The best I can say."
    assert last.tool_calls == []
    assert last.response_metadata["budgetguard"]["final"] is True
    assert not any("last answer" in str(message.content) for message in answer["messages"])


@pytest.mark.parametrize("limit", [{"tokens": 4000}, {"usd": "0.02"}, {"output_tokens": 700}])
def test_a_limit_on_tokens_or_money_ends_in_an_answer_within_it(
    limit, name, serve, chat, lookup, books
):
    provider = serve(SEARCHING)
    agent = create_agent(chat(provider, name), [lookup])
    answer = agent.invoke(GO, config(**limit))
    assert answer["messages"][-1].text == "The best I can say."
    assert 2 < provider.calls < 60
    assert tools_are_off(provider.log[-1].request)
    assert not any(tools_are_off(each.request) for each in provider.log[:-1])
    assert books.outcomes == ["finished"]
    assert sum(each.overshoot_tokens for each in books.of(events.Settled)) == 0
    books.agree_with(provider)


def test_an_agent_that_is_done_before_its_limit_is_just_completed(serve, chat, lookup, books):
    provider = serve([SEARCHING, Reply("done")])
    create_agent(chat(provider), [lookup]).invoke(GO, config(turns=5))
    assert books.outcomes == ["completed"]
    books.agree_with(provider)


def test_stop_ends_an_agent_with_a_typed_message(call, name, serve, chat, lookup, books):
    provider = serve(SEARCHING)
    agent = create_agent(chat(provider, name), [lookup])
    call(agent, GO, config(turns=2, policy=STOP))
    assert provider.requests == 2
    assert books.outcomes == ["stopped"]
    books.agree_with(provider)


@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
async def test_the_typed_message_says_what_ended(form, name, serve, chat, lookup):
    provider = serve(SEARCHING)
    agent = create_agent(chat(provider, name), [lookup])
    settings = config(turns=1, policy=STOP)
    answer = agent.invoke(GO, settings) if form == "invoke" else await agent.ainvoke(GO, settings)
    last = answer["messages"][-1]
    assert isinstance(last, AIMessage)
    assert last.response_metadata["budgetguard"]["ended"] == "stop"
    assert last.response_metadata["budgetguard"]["meter"] == "turns"
    assert last.usage_metadata is None
    assert provider.requests == 1


def test_stop_answers_a_bare_model_in_every_form(call, name, serve, chat, agree):
    provider = serve("four")
    with Budget("task", turns=1, policy=STOP).open() as task:
        for _ in range(3):
            call(chat(provider, name), "2+2", {"callbacks": [BudgetCallbackHandler()]})
        agree(task, provider)
    assert provider.requests == 1
    assert task.outcome == "stopped"


def test_fail_raises_in_every_form(call, name, serve, chat, lookup, books):
    provider = serve(SEARCHING)
    agent = create_agent(chat(provider, name), [lookup])
    with pytest.raises(BudgetExceeded, match="budget 'task': turns 2 of 2 used") as caught:
        call(agent, GO, config(turns=2, policy=FAIL))
    assert isinstance(caught.value, GraphBubbleUp)
    assert (caught.value.meter, caught.value.used, caught.value.limit) == ("turns", 2, 2)
    assert provider.requests == 2
    assert books.outcomes == ["refused"]
    books.agree_with(provider)


def test_fail_raises_from_a_bare_model_in_every_form(call, name, serve, chat, agree):
    provider = serve("four")
    with Budget("task", turns=1).open() as task:
        call(chat(provider, name), "2+2", {"callbacks": [BudgetCallbackHandler()]})
        with pytest.raises(BudgetExceeded):
            call(chat(provider, name), "2+2", {"callbacks": [BudgetCallbackHandler()]})
        agree(task, provider)
    assert provider.requests == 1
    assert task.outcome == "refused"
    assert task.exceeded.meter == "turns"


def test_a_refusal_raised_in_a_graph_pickles_as_the_plain_error(serve, chat, lookup):
    agent = create_agent(chat(serve(SEARCHING)), [lookup])
    with pytest.raises(BudgetExceeded) as caught:
        agent.invoke(GO, config(turns=1, policy=FAIL))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is BudgetExceeded
    assert copy.numbers() == caught.value.numbers()


def test_a_policy_of_effort_alone_ends_in_the_error(serve, chat, lookup):
    provider = serve(SEARCHING)
    agent = create_agent(chat(provider, "gpt-5"), [lookup])
    with pytest.raises(BudgetExceeded):
        agent.invoke(GO, config(turns=3, policy=effort("low")))
    assert provider.requests == 3


def test_a_chain_outside_any_loop_gets_no_last_call(serve, chat, books):
    provider = serve("four")
    chain = chat(provider) | RunnableLambda(lambda message: message.text) | chat(provider)
    with pytest.raises(BudgetExceeded):
        chain.invoke("2+2", config(turns=1))
    assert provider.requests == 1
    assert "tools" not in provider.bodies[0]
    assert books.outcomes == ["refused"]


class StubbornModel(FakeMessagesListChatModel):
    """Calls a tool whatever it is told, as models behind careless gateways do."""

    def bind_tools(self, tools, **kwargs):
        return self.bind(tools=tools, **kwargs)


@pytest.mark.parametrize("text", ["", "As far as I got."])
@pytest.mark.parametrize("form", ["invoke", "stream"])
def test_a_stray_tool_call_of_the_last_turn_is_stripped(text, form, lookup, books):
    calls = [{"name": "search", "args": {"query": "x"}, "id": "1", "type": "tool_call"}]
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    said = [
        AIMessage(text, tool_calls=calls, usage_metadata=usage, id=f"run-{i}") for i in range(9)
    ]
    agent = create_agent(StubbornModel(responses=said), [lookup])
    if form == "stream":
        *_, last = agent.stream(GO, config(turns=2), stream_mode="values")
    else:
        last = agent.invoke(GO, config(turns=2))
    assert last["messages"][-1].tool_calls == []
    assert last["messages"][-1].text == (
        text or "The budget for this task is used up, and the last call gave no answer."
    )
    assert books.outcomes == ["finished"]
    assert [each.turns for each in books.tasks] == [2]


@pytest.mark.parametrize(
    ("script", "fields", "outcome"),
    [
        (["done"], {"turns": 3}, "completed"),
        (["done"], {"turns": 3, "policy": effort("low")}, "degraded"),
        ([SEARCHING, SEARCHING], {"turns": 2}, "finished"),
        ([SEARCHING], {"turns": 1, "policy": STOP}, "stopped"),
        ([SEARCHING], {"turns": 1, "policy": FAIL}, "refused"),
        ([], {"turns": 3}, "error"),
    ],
)
@pytest.mark.parametrize("form", ["invoke", "stream"])
def test_the_outcome_of_a_task_is_one_word(
    script, fields, outcome, form, serve, chat, lookup, books
):
    agent = create_agent(chat(serve(script), "gpt-5"), [lookup])
    try:
        list(agent.stream(GO, config(**fields))) if form == "stream" else agent.invoke(
            GO, config(**fields)
        )
    except Exception as error:
        assert outcome in ("refused", "error"), error
    assert books.outcomes == [outcome]
