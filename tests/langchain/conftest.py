"""What these tests share: real clients, providers with books of their own, and ours to compare."""

from __future__ import annotations

import asyncio
import gc
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from budgetguard import Scope, current_scope, events
from budgetguard.stores.memory import STORE
from budgetguard.testing import LoopbackProvider, Script
from budgetguard_langchain import marks, runs
from budgetguard_langchain.calls import CALIBRATION
from tests.stores.conftest import redis_url, shared_redis  # noqa: F401 -- fixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_core.language_models.chat_models import BaseChatModel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    beta = "ignore::langchain_core._api.LangChainBetaWarning"  # stream_events v3
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(beta))


PRICES = {  # US dollars per million tokens: input, output
    "claude-opus-4-5": ("5", "25"),
    "claude-sonnet-4-5": ("3", "15"),
    "gpt-4o": ("2.5", "10"),
    "gpt-4o-mini": ("0.15", "0.6"),
    "gpt-5": ("1.25", "10"),
}


def billed_usd(provider: LoopbackProvider) -> Decimal:
    """What a provider's log costs at the literal prices above."""
    total = Decimal(0)
    for exchange in provider.log:
        sent, received = PRICES[exchange.request.model]
        usage = exchange.usage
        total += Decimal(sent) * usage.input_tokens + Decimal(received) * usage.output_tokens
    return total / 1_000_000


class Books:
    """Every event of the test, and what they add up to."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def of(self, kind: type) -> list[Any]:
        """The events of one kind, in order."""
        return [each for each in list(self.events) if isinstance(each, kind)]

    @property
    def tasks(self) -> list[Any]:
        """The scopes that closed and had no parent."""
        return [each for each in self.of(events.Closed) if "/" not in each.path]

    @property
    def outcomes(self) -> list[str]:
        """How the tasks went."""
        return [each.outcome for each in self.tasks]

    @property
    def decisions(self) -> list[tuple[str, str | None, str | None]]:
        """What was decided, what was asked for and what it got."""
        return [(each.decision, each.asked, each.used) for each in self.of(events.Decided)]

    def agree_with(self, *providers: LoopbackProvider) -> None:
        """Turns, tokens and money of all closed tasks are those of the providers' own books."""
        settled, tasks = self.of(events.Settled), self.tasks
        turns = sum(each.requests for each in providers)
        tokens = sum(each.tokens for each in providers)
        usd = sum((billed_usd(each) for each in providers), Decimal(0))
        assert len(settled) == turns
        assert sum(each.input_tokens for each in settled) == sum(e.input_tokens for e in providers)
        assert sum(each.output_tokens for each in settled) == sum(
            each.output_tokens for each in providers
        )
        assert sum(each.usd for each in settled) == usd
        assert sum(each.turns for each in tasks) == turns
        assert sum(each.tokens for each in tasks) == tokens
        assert sum(each.usd for each in tasks) == usd


@pytest.fixture
def books() -> Iterator[Books]:
    kept = Books()
    unsubscribe = events.subscribe(kept.events.append)
    yield kept
    unsubscribe()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    STORE.in_flight.clear()  # what tests of the core left in the air
    CALIBRATION._ratios.clear()
    CALIBRATION._factors.clear()
    yield
    if STORE.in_flight or runs.RUNS or marks._marked:
        gc.collect()  # a stream that nobody closed ends when it is collected
    left = set(STORE.in_flight), dict(runs.RUNS), set(marks._marked), current_scope()
    STORE.in_flight.clear()
    runs.RUNS.clear()
    marks._marked.clear()
    assert left == (set(), {}, set(), None)


_served: set[str] = set()


@pytest.fixture
def serve() -> Iterator[Callable[[Script], LoopbackProvider]]:
    opened: list[LoopbackProvider] = []

    def start(script: Script) -> LoopbackProvider:
        # LangChain caches the vendors' async clients by address, beyond the event loop that opened
        # their sockets: a port that another test had would meet them.
        opened.append(LoopbackProvider(script))
        while opened[-1].openai_url in _served:
            opened.append(LoopbackProvider(script))
        _served.add(opened[-1].openai_url)
        return opened[-1]

    yield start
    for provider in opened:
        provider.close()


@pytest.fixture
def chat() -> Callable[..., BaseChatModel]:
    """Make the real client for a model name."""

    def make(provider: LoopbackProvider, name: str = "gpt-4o", **fields: Any) -> BaseChatModel:
        common = {"model": name, "api_key": "test", "max_retries": 0, **fields}
        if name.startswith("claude"):
            return ChatAnthropic(base_url=provider.anthropic_url, **common)
        return ChatOpenAI(base_url=provider.openai_url, **common)

    return make


@pytest.fixture(params=["gpt-4o", "claude-sonnet-4-5"])
def name(request: pytest.FixtureRequest) -> str:
    """A model of each vendor."""
    return request.param


@pytest.fixture
def agree() -> Callable[[Scope, LoopbackProvider], None]:
    """Compare an open scope, or a closed one, with the provider's own books."""

    def check(scope: Scope, *providers: LoopbackProvider) -> None:
        spent = scope.spent
        assert spent.turns == sum(each.requests for each in providers)
        assert spent.input_tokens == sum(each.input_tokens for each in providers)
        assert spent.output_tokens == sum(each.output_tokens for each in providers)
        assert spent.reasoning_tokens == sum(each.reasoning_tokens for each in providers)
        assert spent.usd == sum((billed_usd(each) for each in providers), Decimal(0))
        assert scope.held.turns == 0
        assert scope.held.tokens == 0
        assert scope.held.usd == 0

    return check


@tool
def search(query: str) -> str:
    """Look something up."""
    return f"nothing about {query}"


@pytest.fixture
def lookup() -> Any:
    """A tool that calls no model."""
    return search


def _v3(stream: Any) -> Any:
    message = stream.output
    list(stream)
    return message


async def _av3(runnable: Any, given: Any, config: Any) -> Any:
    stream = await runnable.astream_events(given, config, version="v3")
    output = stream.output
    return await (output() if callable(output) else output)


async def _last(stream: Any) -> Any:
    return [each async for each in stream]


FORMS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "invoke": lambda runnable, given, config: runnable.invoke(given, config),
    "ainvoke": lambda runnable, given, config: asyncio.run(runnable.ainvoke(given, config)),
    "stream": lambda runnable, given, config: list(runnable.stream(given, config)),
    "astream": lambda runnable, given, config: asyncio.run(_last(runnable.astream(given, config))),
    "batch": lambda runnable, given, config: runnable.batch([given], config),
    "abatch": lambda runnable, given, config: asyncio.run(runnable.abatch([given], config)),
    "astream_events v2": lambda runnable, given, config: asyncio.run(
        _last(runnable.astream_events(given, config, version="v2"))
    ),
    "stream_events v3": lambda runnable, given, config: _v3(
        runnable.stream_events(given, config, version="v3")
    ),
    "astream_events v3": lambda runnable, given, config: asyncio.run(_av3(runnable, given, config)),
}


@pytest.fixture(params=[form for form in FORMS if "v3" not in form])
def run_chain(request: pytest.FixtureRequest) -> Callable[[Any, Any, Any], Any]:
    """Each way to call a chain, driven to its end; chains have no v3 streams."""
    return FORMS[request.param]


@pytest.fixture(params=FORMS)
def call(request: pytest.FixtureRequest) -> Callable[[Any, Any, Any], Any]:
    """Each way to call a runnable, driven to its end."""
    return FORMS[request.param]
