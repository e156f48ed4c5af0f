"""What a budget adds to LangChain: model calls, agents and streams of a model that costs nothing.

The baseline is a model class that never passes the guarded entry points, as if budgetguard were not
installed; "no handler" is the same model with them installed and no budget in reach.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelCallLimitMiddleware
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai import ChatOpenAI
from measure import async_batch, batch, goal, medians, show_added

from budgetguard import Budget
from budgetguard_langchain import BudgetCallbackHandler, entry_points

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from langchain_core.runnables import Runnable, RunnableConfig
    from measure import Batch

BUDGET = Budget("bench", tokens=400_000, usd="2", turns=12)
ORIGINAL = {name: getattr(BaseChatModel, name) for name in entry_points._NAMES}

CHUNKS = 1_000
USAGE: Any = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
QUESTION = "Which of the two is heavier, a kilogram of iron or a kilogram of feathers, and why?"


class Instant:
    """Answers at once: with a tool call where tools are offered, else or afterwards with a word."""

    def _generate(self, messages: list[BaseMessage], *_args: Any, **kwargs: Any) -> ChatResult:
        asks = kwargs.get("tools") and messages[-1].type != "tool"
        calls = [{"name": "look", "args": {}, "id": "call-1"}] if asks else []
        answer = AIMessage("Neither.", tool_calls=calls, usage_metadata=USAGE)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> ChatResult:
        return self._generate(messages, *args, **kwargs)


class Streaming(Instant):
    """Streams at once."""

    def _stream(self, *_args: Any, **_kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for _ in range(CHUNKS - 1):
            yield ChatGenerationChunk(message=AIMessageChunk("word "))
        yield ChatGenerationChunk(message=AIMessageChunk("end", usage_metadata=USAGE))

    async def _astream(self, *_args: Any, **_kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream():
            yield chunk


class Fake(Instant, BaseChatModel):
    """A model class budgetguard knows nothing of but the name of its output cap."""

    model_name: str = "gpt-4o"
    max_tokens: int | None = None

    @property
    def _llm_type(self) -> str:
        return "fake"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(each) for each in tools], **kwargs)


class FakeOpenAI(Instant, ChatOpenAI):
    """The real class, its fields and its dialect, without requests."""


class FakeStream(Streaming, Fake):
    """The fake, streaming."""


class Silent(BaseCallbackHandler):
    """Implements every event and does nothing."""

    run_inline = True

    def _nothing(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    on_chat_model_start = on_llm_start = on_llm_new_token = on_llm_end = on_llm_error = _nothing
    on_chain_start = on_chain_end = on_chain_error = on_agent_action = on_agent_finish = _nothing
    on_tool_start = on_tool_end = on_tool_error = on_text = on_retry = on_custom_event = _nothing
    on_retriever_start = on_retriever_end = on_retriever_error = on_stream_event = _nothing


class PassThrough(AgentMiddleware):
    """The least a middleware can do around a model call."""

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(request)


@tool
def look() -> str:
    """Look at the scales."""
    return "Both show 1 kg."


def unguarded(kind: type[BaseChatModel]) -> type[BaseChatModel]:
    """The same class with the entry points that LangChain ships."""
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, **ORIGINAL})


def config(*handlers: BaseCallbackHandler) -> RunnableConfig:
    return {"callbacks": list(handlers)}


def compared(
    plain: Runnable[Any, Any],
    guarded: Runnable[Any, Any],
    make: Callable[[Runnable[Any, Any], RunnableConfig | None], Batch],
) -> dict[str, Batch]:
    """The variants of every model call, the baseline first."""
    return {
        "baseline": make(plain, None),
        "no handler, entry points installed": make(guarded, None),
        "no-op handler, all events": make(guarded, config(Silent())),
        "UsageMetadataCallbackHandler": make(guarded, config(UsageMetadataCallbackHandler())),
        "BudgetCallbackHandler, tokens + usd + turns": make(
            guarded, config(BudgetCallbackHandler(BUDGET))
        ),
    }


def added(taken: dict[str, float]) -> float:
    """What the last variant takes more than the first."""
    values = list(taken.values())
    return values[-1] - values[0]


def measure_invoke(kind: type[BaseChatModel], **fields: Any) -> None:
    def make(model: Runnable[Any, Any], of: RunnableConfig | None) -> Batch:
        return batch(partial(model.invoke, QUESTION, of), 25)

    taken = medians(compared(unguarded(kind)(**fields), kind(**fields), make), 60)
    show_added(f"invoke, a {kind.__bases__[-1].__name__} that answers at once; 60 rounds", taken)
    goal("a budget adds", added(taken), 40, "us")


def measure_ainvoke(runner: asyncio.Runner) -> None:
    def make(model: Runnable[Any, Any], of: RunnableConfig | None) -> Batch:
        return async_batch(runner, partial(model.ainvoke, QUESTION, of), 25)

    taken = medians(compared(unguarded(Fake)(), Fake(), make), 60)
    show_added("ainvoke; 60 rounds", taken)


def measure_agent() -> None:
    question = {"messages": [HumanMessage(QUESTION)]}

    def make(model: BaseChatModel, *middleware: AgentMiddleware, **of: Any) -> Batch:
        agent = create_agent(model, [look], middleware=middleware)
        return batch(partial(agent.invoke, question, **of), 2)

    guarded = Fake()
    taken = medians(
        {
            "baseline": make(unguarded(Fake)()),
            "no handler, entry points installed": make(guarded),
            "no-op handler, all events": make(guarded, config=config(Silent())),
            "no-op wrap_model_call middleware": make(guarded, PassThrough()),
            "ModelCallLimitMiddleware": make(guarded, ModelCallLimitMiddleware(run_limit=12)),
            "BudgetCallbackHandler, tokens + usd + turns": make(
                guarded, config=config(BudgetCallbackHandler(BUDGET))
            ),
        },
        150,
    )
    show_added("create_agent, 2 model calls and 1 tool; 150 rounds", taken)
    goal("a budget adds", added(taken), 150, "us")
    goal("a budget adds, as a hard limit,", added(taken), 250, "us")


def measure_streams(runner: asyncio.Runner) -> None:
    plain, guarded = unguarded(FakeStream)(), FakeStream()

    def make(model: Runnable[Any, Any], of: RunnableConfig | None) -> Batch:
        def run() -> None:
            for _ in model.stream(QUESTION, of):
                pass

        return batch(run, 1)

    def amake(model: Runnable[Any, Any], of: RunnableConfig | None) -> Batch:
        async def run() -> None:
            async for _ in model.astream(QUESTION, of):
                pass

        return async_batch(runner, run, 1)

    for way, each in (("stream", make), ("astream", amake)):
        taken = medians(compared(plain, guarded, each), 25)
        chunk = {label: us / CHUNKS for label, us in taken.items()}
        show_added(f"{way}, {CHUNKS:,} chunks; 25 rounds", chunk, what="us a chunk")


def main() -> None:
    with asyncio.Runner() as runner:
        measure_invoke(Fake)
        measure_invoke(FakeOpenAI, model="gpt-4o", api_key="never sent")
        measure_ainvoke(runner)
        measure_agent()
        measure_streams(runner)


if __name__ == "__main__":
    main()
