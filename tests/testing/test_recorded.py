"""The recorded runs, and all of them replayed through a real LangChain agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime  # noqa: TC002  the tool node reads the annotation
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from budgetguard.testing import (
    LoopbackProvider,
    RecordedRun,
    airline_runs,
    recorded_tool_names,
    replay,
    tool_answer,
    tool_schemas,
)
from budgetguard.testing.recorded import END_TEXT, FINAL_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = airline_runs()


def recorded_tool(schema: dict[str, Any], executed: Callable[[str], None]) -> StructuredTool:
    """A LangChain tool that answers as recorded.

    LangGraph's tool node fills the parameter named `runtime` and hides it from the model, so the
    tool learns which call it answers although its `args_schema` is plain JSON schema.
    """

    def answer(runtime: ToolRuntime, **_arguments: Any) -> str:
        assert runtime.tool_call_id is not None
        executed(runtime.tool_call_id)
        return tool_answer(runtime.tool_call_id)

    function = schema["function"]
    return StructuredTool.from_function(
        answer,
        name=function["name"],
        description=function["description"],
        args_schema=function["parameters"],
    )


def converse(run: RecordedRun, model: Any, executed: Callable[[str], None]) -> list[Any]:
    tools = [recorded_tool(schema, executed) for schema in tool_schemas(RUNS)]
    agent = create_agent(model, tools, system_prompt=run.system, checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "one"}}
    state: dict[str, Any] = {"messages": []}
    for said in run.user_messages:
        state = agent.invoke({"messages": [("user", said)]}, thread)
    return state["messages"]


def find(task_id: int, trial: int) -> RecordedRun:
    return next(run for run in RUNS if (run.task_id, run.trial) == (task_id, trial))


def test_there_are_twenty_runs_of_ten_tasks():
    tasks = [1, 2, 12, 13, 15, 17, 18, 21, 22, 23]
    assert [(run.task_id, run.trial) for run in RUNS] == [(t, k) for t in tasks for k in (0, 1)]
    assert sum(run.reward for run in RUNS) == 7.0
    assert sum(run.turns for run in RUNS) == 288
    assert sum(len(run.user_messages) for run in RUNS) == 158
    assert len({run.system for run in RUNS}) == 1


def test_ids_of_tool_calls_name_one_call_each():
    ids = [call for run in RUNS for call in run.tool_calls]
    assert len(ids) == len(set(ids)) == 134
    assert "call_MY94XAcnfHzfAZcVHqt5FRRQ_3" in ids
    assert tool_answer(find(18, 0).tool_calls[-1]) == "Transfer successful"


def test_an_unknown_tool_call_has_no_answer():
    with pytest.raises(KeyError):
        tool_answer("call_unheard_of")


def test_user_messages_nobody_answered_are_told_but_not_replayed():
    run = find(1, 0)
    assert run.messages[-1]["content"] == "Thank you! ###STOP###"
    assert run.user_messages[-1] != "Thank you! ###STOP###"
    assert len(run.user_messages) == run.turns == 5
    ends = [run.messages[-1]["role"] for run in RUNS]
    assert (ends.count("user"), ends.count("tool")) == (16, 4)


def test_tool_schemas_are_inferred_from_the_calls():
    names = recorded_tool_names(RUNS)
    assert names == (
        "book_reservation",
        "calculate",
        "cancel_reservation",
        "get_reservation_details",
        "get_user_details",
        "list_all_airports",
        "search_direct_flight",
        "search_onestop_flight",
        "think",
        "transfer_to_human_agents",
        "update_reservation_flights",
    )
    schemas = {schema["function"]["name"]: schema["function"] for schema in tool_schemas(RUNS)}
    assert tuple(schemas) == names
    assert schemas["list_all_airports"]["parameters"] == {
        "type": "object",
        "properties": {},
        "required": [],
    }
    update = schemas["update_reservation_flights"]["parameters"]
    assert update["required"] == ["reservation_id", "cabin", "flights", "payment_id"]
    assert update["properties"]["flights"] == {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"flight_number": {"type": "string"}, "date": {"type": "string"}},
            "required": ["flight_number", "date"],
        },
    }


def test_every_recorded_conversation_runs_through_a_real_agent():
    executed: list[str] = []
    with LoopbackProvider(replay(RUNS)) as provider:
        model = ChatOpenAI(
            model="gpt-4o", base_url=provider.openai_url, api_key="test", max_retries=0
        )
        for run in RUNS:
            messages = converse(run, model, executed.append)
            said = [message for message in messages if isinstance(message, AIMessage)]
            assert [message.text for message in said[: run.turns]] == [
                turn["content"] or "" for turn in run.spoken
            ]
            ended_by_tool = run.messages[-1]["role"] == "tool"
            assert [m.text for m in said[run.turns :]] == [END_TEXT] * ended_by_tool
            answers = [m.content for m in messages if isinstance(m, ToolMessage)]
            assert answers == [m["content"] for m in run.messages if m["role"] == "tool"]
        assert executed == [call for run in RUNS for call in run.tool_calls]
        assert provider.requests == provider.calls == 288 + 4


def test_a_recorded_conversation_runs_through_claude_too():
    executed: list[str] = []
    run = find(18, 0)
    with LoopbackProvider(replay(RUNS)) as provider:
        model = ChatAnthropic(
            model="claude-sonnet-4-5", base_url=provider.anthropic_url, api_key="test"
        )
        converse(run, model, executed.append)
    assert tuple(executed) == run.tool_calls


def test_a_last_call_with_tools_off_gets_an_honest_sentence():
    run = find(18, 0)
    position = next(i for i, m in enumerate(run.messages) if m.get("tool_calls"))
    messages: list[Any] = [*run.messages[:position]]
    with LoopbackProvider(replay(RUNS)) as provider:
        model = ChatOpenAI(model="gpt-4o", base_url=provider.openai_url, api_key="test")
        assert model.invoke(messages).text == FINAL_TEXT
        offered = model.bind_tools(list(tool_schemas(RUNS)))
        assert offered.invoke(messages).tool_calls[0]["id"] == run.tool_calls[0]
        assert offered.invoke(messages, tool_choice="none").text == FINAL_TEXT


def test_a_conversation_that_was_not_recorded_is_an_error():
    with LoopbackProvider(replay(RUNS)) as provider:
        model = ChatOpenAI(
            model="gpt-4o", base_url=provider.openai_url, api_key="test", max_retries=0
        )
        with pytest.raises(Exception, match="KeyError: 'Something new'"):
            model.invoke("Something new")


def test_two_runs_with_the_same_beginning_cannot_be_told_apart():
    with pytest.raises(ValueError, match="two runs begin with"):
        replay([RUNS[0], RecordedRun(99, 0, 0.0, "", RUNS[0].messages)])
