"""Facts of LangChain and LangGraph that the integration stands on."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain_anthropic import ChatAnthropic
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from langgraph.errors import GraphBubbleUp
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from budgetguard.testing import Reply, ToolCall

ENTRY_POINTS = (
    "generate",
    "agenerate",
    "stream",
    "astream",
    "_chat_model_stream_v3",
    "_achat_model_stream_v3",
)
GO = {"messages": [("user", "go")]}


class Enough(GraphBubbleUp):
    """A refusal, as far as LangGraph can tell."""


@pytest.mark.parametrize("kind", [ChatOpenAI, AzureChatOpenAI, ChatAnthropic])
def test_no_provider_class_overrides_an_entry_point(kind):
    own = [base for base in kind.__mro__ if base not in BaseChatModel.__mro__]
    assert [
        (base.__name__, name) for base in own for name in ENTRY_POINTS if name in vars(base)
    ] == []
    assert all(hasattr(BaseChatModel, name) for name in ENTRY_POINTS)


class Listening(BaseCallbackHandler):
    run_inline = True

    def __init__(self) -> None:
        self.starts: list[tuple[str | None, list[str]]] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.starts.append((kwargs.get("name"), list(kwargs.get("tags") or ())))


def test_the_nodes_of_a_graph_and_nothing_else_are_tagged_with_their_step(serve, chat, lookup):
    provider = serve([Reply(tool_calls=(ToolCall("search", {"query": "x"}),)), "done"])
    listening = Listening()
    create_agent(chat(provider), [lookup]).invoke(GO, {"callbacks": [listening]})
    steps = {
        name: [tag for tag in tags if tag.startswith("graph:step:")]
        for name, tags in listening.starts
    }
    assert steps["LangGraph"] == []
    assert steps["tools"] == ["graph:step:2"]
    assert steps["model"] == ["graph:step:3"]


@pytest.mark.parametrize(
    "middleware",
    [
        lambda model: ModelRetryMiddleware(max_retries=3, initial_delay=0),
        ModelFallbackMiddleware,
    ],
)
@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
async def test_what_bubbles_up_passes_the_middleware(middleware, form, serve, chat, lookup):
    class Raising(BaseCallbackHandler):
        raise_error = True
        run_inline = True

        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            raise Enough

    provider = serve("four")
    model = chat(provider)
    agent = create_agent(model, [lookup], middleware=[middleware(model)])
    config = {"callbacks": [Raising()]}
    with pytest.raises(Enough):
        await agent.ainvoke(GO, config) if form == "ainvoke" else agent.invoke(GO, config)
    assert provider.requests == 0


@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
async def test_what_bubbles_up_passes_a_tool_node(form):
    @tool
    def refused(query: str) -> str:
        """Raise."""
        raise Enough

    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([refused], handle_tool_errors=True))
    graph.add_edge(START, "tools")
    app = graph.compile()
    calls = [{"name": "refused", "args": {"query": "x"}, "id": "1", "type": "tool_call"}]
    given = {"messages": [AIMessage("", tool_calls=calls)]}
    with pytest.raises(Enough):
        await app.ainvoke(given) if form == "ainvoke" else app.invoke(given)
