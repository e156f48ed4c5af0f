"""An airline's customer service agent, as it exists before anybody thinks of budgets.

The customers, the tools' answers and, offline, the model's words are recorded: twenty tau-bench
conversations of gpt-4o (see `budgetguard/testing/data/README.md`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain.tools import ToolRuntime  # noqa: TC002 -- the tool node reads the annotation
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from budgetguard.testing import airline_runs, tool_answer, tool_schemas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from budgetguard.testing import RecordedRun

EXECUTED: set[str] = set()
"""Ids of the tool calls that were executed."""

_BY_ARGUMENTS = {
    (name, json.dumps(arguments, sort_keys=True)): tool_answer(call)
    for run in airline_runs()
    for call, (name, arguments) in zip(run.tool_calls, run.arguments(), strict=True)
}


def recorded_tool(schema: dict[str, Any]) -> StructuredTool:
    """A tool that answers as recorded, to the recorded call or to one with the same arguments."""
    function = schema["function"]

    def answer(runtime: ToolRuntime, **arguments: Any) -> str:
        call = str(runtime.tool_call_id)
        EXECUTED.add(call)
        try:
            return tool_answer(call)
        except KeyError:
            key = function["name"], json.dumps(arguments, sort_keys=True)
            return _BY_ARGUMENTS.get(key, "Error: the recording has no answer to this call")

    return StructuredTool.from_function(
        answer,
        name=function["name"],
        description=function["description"],
        args_schema=function["parameters"],
    )


def airline_agent(**client: Any) -> Any:
    """The agent: gpt-4o, the airline's tools, its policy, one conversation per thread.

    Args:
        client: Where the model is, as `ChatOpenAI` takes it; nothing for the real API.
    """
    runs = airline_runs()
    return create_agent(
        ChatOpenAI(model="gpt-4o", max_retries=0, **client),
        [recorded_tool(schema) for schema in tool_schemas(runs)],
        system_prompt=runs[0].system,
        checkpointer=InMemorySaver(),
    )


def converse(agent: Any, run: RecordedRun, thread: str) -> Iterator[str]:
    """Let a recorded customer talk to the agent; each message is one run of it."""
    for said in run.user_messages:
        config = {"configurable": {"thread_id": thread}}
        state = agent.invoke({"messages": [("user", said)]}, config)
        yield state["messages"][-1].text


def is_solved(run: RecordedRun) -> bool:
    """Whether the recorded task was solved, and everything it took was done again."""
    return run.reward == 1 and set(run.tool_calls) <= EXECUTED
