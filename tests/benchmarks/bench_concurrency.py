"""Whether a limit holds when everything happens at once: real clients, a loopback provider.

Every call costs exactly a cent (gpt-4o, 1,000 tokens in, 750 out) unless its output cap is smaller,
and every limit is ten such calls. "Reached" counts what the provider answered, money is what it
billed, and "ledger" says whether whoever was to hold the limit counted the same, to the token.
"""

from __future__ import annotations

import asyncio
import random
import resource
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain.agents import create_agent
from langchain.agents.middleware import ModelCallLimitMiddleware
from langchain.agents.middleware.model_call_limit import ModelCallLimitExceededError
from langchain_core.callbacks import BaseCallbackHandler
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from measure import SEED, goal, show

from budgetguard import Budget, BudgetExceeded, Scope
from budgetguard.testing import LoopbackProvider, Reply, Request
from budgetguard_langchain import BudgetCallbackHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from langchain_core.runnables import RunnableConfig

    Outcome = BaseException | Any
    Trial = Callable[["Bench", random.Random], Awaitable["Ledger"]]

CALLS_ALLOWED = 10
LIMIT_NANO = 100_000_000
SMALL, LARGE = 50, 500
SMALL_ROUNDS, LARGE_ROUNDS = 20, 3
STAGGER_S, LEAST_DELAY_S, MOST_DELAY_S = 0.004, 0.01, 0.03

TURNS = Budget("ten turns", turns=CALLS_ALLOWED)
MONEY = Budget("ten cents", usd="0.10")
WORDS = ("agent", "every", "finds", "it", "it", "notes", "of", "page", "reads", "report", "the")


class OverLimitError(Exception):
    """What the counter below raises."""


class Ledger(NamedTuple):
    """What the side that was to hold the limit believes."""

    calls: int
    tokens: int | None
    nano_usd: int | None
    refused: int


class Trialled(NamedTuple):
    """One repetition, as the provider saw it."""

    reached: int
    times: float
    """Money billed, over the limit. Ten calls without a cap are exactly the limit of money too."""
    refused: int
    agrees: bool
    """Whether the ledger says what the provider says."""
    seconds: float


class Bench:
    """The provider, and real clients for it."""

    def __init__(self, provider: LoopbackProvider, threads: ThreadPoolExecutor) -> None:
        self.provider = provider
        self.threads = threads
        self.model = self._client()
        self.capped = self._client(max_tokens=750)
        self._seen = 0

    def _client(self, **options: Any) -> ChatOpenAI:
        url = self.provider.openai_url
        return ChatOpenAI(
            model="gpt-4o", base_url=url, api_key="test", max_retries=0, timeout=60, **options
        )

    def billed(self) -> tuple[int, int, int]:
        """Calls, tokens and nano-dollars billed since this was last asked."""
        self.provider.wait_idle(timeout=60)
        log = self.provider.log
        new, self._seen = log[self._seen :], len(log)
        sent = sum(exchange.usage.input_tokens for exchange in new)
        received = sum(exchange.usage.output_tokens for exchange in new)
        return len(new), sent + received, sent * 2_500 + received * 10_000


def reply(request: Request) -> Reply:
    """A cent's worth; how long it takes follows from the number of the request."""
    delay_s = random.Random(SEED + request.index).uniform(LEAST_DELAY_S, MOST_DELAY_S)
    return Reply("done", input_tokens=1_000, output_tokens=750, delay_s=delay_s)


def prompts(rng: random.Random, count: int) -> list[tuple[float, str]]:
    """When each call starts, and some 1,000 tokens for it to send."""
    return [
        (rng.uniform(0, STAGGER_S), " ".join(rng.choices(WORDS, k=1_000))) for _ in range(count)
    ]


async def all_at_once(
    ask: Callable[[str], Awaitable[Any]], starts: Sequence[tuple[float, str]]
) -> list[Outcome]:
    """Every call in a task of its own."""

    async def start(after_s: float, prompt: str) -> Any:
        await asyncio.sleep(after_s)
        return await ask(prompt)

    tasks = [start(after_s, prompt) for after_s, prompt in starts]
    return await asyncio.gather(*tasks, return_exceptions=True)


async def in_threads(
    bench: Bench, ask: Callable[[str], Any], starts: Sequence[tuple[float, str]]
) -> list[Outcome]:
    """Every call in a thread of its own, which inherits no scope."""
    ready = threading.Barrier(len(starts))

    def start(after_s: float, prompt: str) -> Any:
        ready.wait()
        time.sleep(after_s)
        return ask(prompt)

    loop = asyncio.get_running_loop()
    jobs = [loop.run_in_executor(bench.threads, start, *each) for each in starts]
    return await asyncio.gather(*jobs, return_exceptions=True)


def refusals(outcomes: Sequence[Outcome], kind: type[Exception]) -> int:
    """How many calls were refused; any other error ends the benchmark."""
    errors = [each for each in outcomes if isinstance(each, BaseException)]
    for error in errors:
        if not isinstance(error, kind):
            raise error
    return len(errors)


def ledger_of(scope: Scope, outcomes: Sequence[Outcome]) -> Ledger:
    spent = scope.spent
    assert scope.held.tokens == scope.held.nano_usd == scope.held.turns == 0
    refused = refusals(outcomes, BudgetExceeded)
    return Ledger(spent.turns, spent.tokens, spent.nano_usd, refused)


async def budget_in_tasks(
    bench: Bench, rng: random.Random, *, budget: Budget, count: int, capped: bool = False
) -> Ledger:
    model, config = _guarded(bench, capped=capped)
    with budget.open() as scope:
        outcomes = await all_at_once(partial(model.ainvoke, config=config), prompts(rng, count))
    return ledger_of(scope, outcomes)


async def budget_in_threads(
    bench: Bench, rng: random.Random, *, budget: Budget, count: int, capped: bool = False
) -> Ledger:
    model, config = _guarded(bench, capped=capped)
    with budget.open() as scope:

        def ask(prompt: str) -> Any:
            with scope.activate():
                return model.invoke(prompt, config)

        outcomes = await in_threads(bench, ask, prompts(rng, count))
    return ledger_of(scope, outcomes)


def _guarded(bench: Bench, *, capped: bool) -> tuple[ChatOpenAI, RunnableConfig]:
    """A model, and the handler that guards it by the scope that is open."""
    return bench.capped if capped else bench.model, {"callbacks": [BudgetCallbackHandler()]}


async def call_limit_middleware(bench: Bench, rng: random.Random, *, count: int) -> Ledger:
    """LangChain's own limit, on one thread of conversation."""
    limit = ModelCallLimitMiddleware(thread_limit=CALLS_ALLOWED, exit_behavior="error")
    agent = create_agent(bench.model, [], middleware=[limit], checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "one"}}

    async def ask(prompt: str) -> Any:
        return await agent.ainvoke({"messages": [("user", prompt)]}, config)

    outcomes = await all_at_once(ask, prompts(rng, count))
    state = (await agent.aget_state(config)).values
    refused = refusals(outcomes, ModelCallLimitExceededError)
    return Ledger(state.get("thread_model_call_count", 0), None, None, refused)


class CheckThenAdd(BaseCallbackHandler):
    """What people write themselves: look at the sum before a call, add to it afterwards."""

    raise_error = True
    run_inline = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = self.tokens = self.nano_usd = 0

    def on_chat_model_start(self, *_args: Any, **_kwargs: Any) -> None:
        with self._lock:
            if self.nano_usd >= LIMIT_NANO:
                raise OverLimitError

    def on_llm_end(self, response: Any, **_kwargs: Any) -> None:
        usage = response.generations[0][0].message.usage_metadata
        with self._lock:
            self.calls += 1
            self.tokens += usage["total_tokens"]
            self.nano_usd += usage["input_tokens"] * 2_500 + usage["output_tokens"] * 10_000


async def check_then_add(bench: Bench, rng: random.Random, *, count: int) -> Ledger:
    counter = CheckThenAdd()
    config: RunnableConfig = {"callbacks": [counter]}
    ask = partial(bench.model.ainvoke, config=config)
    outcomes = await all_at_once(ask, prompts(rng, count))
    refused = refusals(outcomes, OverLimitError)
    return Ledger(counter.calls, counter.tokens, counter.nano_usd, refused)


async def trial(bench: Bench, run: Trial, seed: int) -> Trialled:
    start = time.perf_counter()
    ledger = await run(bench, random.Random(seed))
    seconds = time.perf_counter() - start
    calls, tokens, nano_usd = bench.billed()
    agrees = ledger.calls == calls and ledger.tokens in (None, tokens)
    agrees = agrees and ledger.nano_usd in (None, nano_usd)
    return Trialled(calls, nano_usd / LIMIT_NANO, ledger.refused, agrees, seconds)


def budgets(count: int, *, threads: bool) -> dict[str, Trial]:
    """The ways a budget is put on the calls."""
    run: Any = budget_in_threads if threads else budget_in_tasks
    way = "threads" if threads else "ainvoke"
    of = partial(run, count=count)
    return {
        f"budgetguard, {way}, turns=10": partial(of, budget=TURNS),
        f"budgetguard, {way}, usd=0.10": partial(of, budget=MONEY),
        f"budgetguard, {way}, usd=0.10, max_tokens=750": partial(of, budget=MONEY, capped=True),
    }


def others(count: int) -> dict[str, Trial]:
    """What there is beside it."""
    naive: dict[str, Trial] = {
        "check-then-add callback, $0.10": partial(check_then_add, count=count)
    }
    if count > SMALL:
        return naive
    limit = partial(call_limit_middleware, count=count)
    return {"ModelCallLimitMiddleware(thread_limit=10)": limit, **naive}


async def repeated(bench: Bench, ways: dict[str, Trial], rounds: int) -> dict[str, list[Trialled]]:
    """Every way once a round."""
    trials: dict[str, list[Trialled]] = {label: [] for label in ways}
    for each in range(rounds):
        for label, run in ways.items():
            trials[label].append(await trial(bench, run, SEED + each))
    return trials


async def compare(bench: Bench, count: int, rounds: int) -> None:
    """Print one table, and whether the budgets held."""
    ours = budgets(count, threads=False)
    if count == SMALL:
        ours |= budgets(count, threads=True)
    trials = await repeated(bench, ours | others(count), rounds)
    title = f"{count} calls at once, a limit of {CALLS_ALLOWED}; {rounds} seeded repetitions"
    header = ("", "reached", "x limit", "money used %", "refused", "ledger", "median s")
    show(title, header, [_row(label, done) for label, done in trials.items()])
    done = [each for label in ours for each in trials[label]]
    most, wrong = max(each.times for each in done), sum(not each.agrees for each in done)
    goal(f"in {len(done)} repetitions a budget let through", most, 1, "times its limit")
    goal("ledger and provider differ in", wrong, 0, "repetitions")


def _row(label: str, done: list[Trialled]) -> tuple[str, ...]:
    differing = sum(not each.agrees for each in done)
    return (
        label,
        _range([each.reached for each in done], "d"),
        f"{max(each.times for each in done):.2f}",
        _range([100 * each.times for each in done], ".1f"),
        _range([each.refused for each in done], "d"),
        f"differs in {differing}" if differing else "same",
        f"{statistics.median(each.seconds for each in done):.2f}",
    )


def _range(values: Sequence[float], form: str) -> str:
    low, high = (format(of(values), form) for of in (min, max))
    return low if low == high else f"{low}..{high}"


def allow_open_files(number: int) -> None:
    """Both ends of every connection are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def main() -> None:
    allow_open_files(4 * LARGE)
    with LoopbackProvider(reply) as provider, ThreadPoolExecutor(SMALL) as threads:
        bench = Bench(provider, threads)
        for count, rounds in ((SMALL, SMALL_ROUNDS), (LARGE, LARGE_ROUNDS)):
            await compare(bench, count, rounds)


if __name__ == "__main__":
    asyncio.run(main())
