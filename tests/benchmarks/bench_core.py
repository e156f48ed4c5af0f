"""What the core costs: an admission, a price, a count, a scope; and what it leaves in memory."""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib
import importlib.util
import resource
import sys
import threading
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from measure import async_batch, batch, goal, medians, show, show_added

from budgetguard import Budget, Call, Price, Scope, Usage, pricing
from budgetguard.counting import Calibration, Conversation
from budgetguard_langchain.calls import describe, record_bill
from budgetguard_langchain.messages import is_answer, texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from measure import Batch

BUDGET = Budget("bench", tokens=10**12, usd=1_000_000)
WITH_TURNS = BUDGET.replace(turns=10**9)
CALL = Call("gpt-4o", provider="openai", input_tokens=1_000)
USAGE = Usage(input_tokens=1_000, output_tokens=750)  # a cent
MODEL = FakeListChatModel(responses=["never asked"])
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
OPTIONS = {"model": "gpt-4o", "tools": [TOOL]}

WARM_UP, ADMISSIONS = 5_000, 1_000_000
OPENED, KEPT_OPEN = 100_000, 10_000
TURNS = (1, 2, 10, 100, 500)
SAID = "The quick brown fox jumps over the lazy dog. " * 22  # 1 kB


class Counter:
    """What people write themselves: check, then add. Calls in flight are not in it."""

    def __init__(self, tokens: int, usd: float) -> None:
        self._lock = threading.Lock()
        self._tokens_left, self._usd_left = tokens, usd

    def check(self) -> None:
        with self._lock:
            if self._tokens_left <= 0 or self._usd_left <= 0:
                raise RuntimeError("over budget")

    def add(self, usage: Usage) -> None:
        with self._lock:
            self._tokens_left -= usage.tokens
            self._usd_left -= usage.input_tokens * 2.5e-6 + usage.output_tokens * 1e-5


def checked(counter: Counter) -> None:
    counter.check()
    counter.add(USAGE)


def admitted(scope: Scope) -> None:
    scope.admit(CALL).settle(USAGE)


async def async_admitted(scope: Scope) -> None:
    (await scope.aadmit(CALL)).settle(USAGE)


def reserved(guard: Any) -> None:
    guard.settle("gpt-4o", 1_000, 750, reserved=guard.reserve(0.01))


def opened() -> None:
    with BUDGET.open():
        pass


def used_once() -> None:
    with BUDGET.open() as scope:
        admitted(scope)


def open_deep(budget: Budget) -> Scope:
    """The innermost of three open scopes of different budgets."""
    outer = budget.replace(name="outer").open()
    with outer.activate():
        middle = budget.replace(name="middle").open()
    with middle.activate():
        return budget.replace(name="inner").open()


def measure_admission(runner: asyncio.Runner) -> None:
    number = 1_000
    batches = {
        "counter: lock, check, then add": batch(partial(checked, Counter(10**12, 1e6)), number),
        "1 scope, tokens + usd": batch(partial(admitted, BUDGET.open()), number),
        "1 scope, tokens + usd + turns": batch(partial(admitted, WITH_TURNS.open()), number),
        "1 scope, tokens + usd + turns, async": async_batch(
            runner, partial(async_admitted, WITH_TURNS.open()), number
        ),
        "1 scope: open + close": batch(opened, number),
        "3 scopes, tokens + usd": batch(partial(admitted, open_deep(BUDGET)), number),
        "3 scopes, tokens + usd + turns": batch(partial(admitted, open_deep(WITH_TURNS)), number),
    }
    if importlib.util.find_spec("floe_guard"):
        guard = importlib.import_module("floe_guard").BudgetGuard(limit_usd=1e9)
        batches["floe-guard: reserve + settle, usd"] = batch(partial(reserved, guard), number)
    taken = medians(batches, 25)
    show_added(f"admit + settle, default policy; 25 rounds of {number:,}", taken)
    for what, most in (("1 scope, tokens + usd", 8), ("3 scopes, tokens + usd", 16)):
        goal(what, taken[what], most, "us")


def uncached_price() -> None:
    pricing._listed.cache_clear()
    pricing.rates("gpt-4o", "openai")


def measure_pricing() -> None:
    own = {"mine": Price(input=1, output=2)}
    batches = {
        "price library, found before": batch(partial(pricing.rates, "gpt-4o", "openai"), 2_000),
        "your own price": batch(partial(pricing.rates, "mine", prices=own), 2_000),
        "price library, first time": batch(uncached_price, 5),
    }
    taken = medians(batches, 25)
    show_added("price lookup; 25 rounds", taken)
    goal("a lookup after the first", taken["price library, found before"], 2, "us")


def said() -> list[BaseMessage]:
    """An agent's conversation, to which every turn adds two messages, one of them long."""
    messages: list[BaseMessage] = [SystemMessage("Be brief."), HumanMessage(SAID)]
    for turn in range(1, TURNS[-1]):
        call = {"name": "look", "args": {"page": turn}, "id": f"call-{turn}"}
        messages += [AIMessage("", tool_calls=[call]), ToolMessage(SAID, tool_call_id=f"c{turn}")]
    return messages


def prompt_of(turn: int, messages: list[BaseMessage]) -> list[BaseMessage]:
    return messages[: 2 * turn]


def count(scope: Scope, prompt: list[BaseMessage]) -> None:
    """One turn: counted, then billed."""
    conversation = scope.conversation
    assert conversation is not None
    counted = conversation.count("gpt-4o", prompt)
    conversation.billed(counted, input_tokens=counted.tokens - 9, output_tokens=30)


def guard(scope: Scope, prompt: list[BaseMessage]) -> None:
    """The same on the way a guarded LangChain call takes."""
    described = describe(scope, MODEL, prompt, {}, path=(), in_graph=False)
    sent = described.call.input_tokens - 9
    record_bill(described, Usage(input_tokens=sent, output_tokens=30))


def before_turns(
    messages: list[BaseMessage], take: Callable[[list[BaseMessage]], None], scope: Scope
) -> dict[int, Conversation[BaseMessage]]:
    """The conversation as it is just before each of `TURNS`, every turn before it being taken."""
    conversation = Conversation(Calibration(), texts=texts, is_answer=is_answer)
    scope.conversation = conversation
    before: dict[int, Conversation[BaseMessage]] = {}
    for turn in range(1, TURNS[-1] + 1):
        if turn in TURNS:
            before[turn] = copy.copy(conversation)
        take(prompt_of(turn, messages))
    return before


def turn_batch(scope: Scope, before: Conversation[BaseMessage], take: Callable[[], None]) -> Batch:
    """Takes the same turn again and again, each time with the conversation as it was before it."""
    number = 200

    def run() -> float:
        spent = 0.0
        for _ in range(number):
            scope.conversation = copy.copy(before)
            start = time.perf_counter()
            take()
            spent += time.perf_counter() - start
        return spent / number * 1e6

    return run


def turn_batches(
    messages: list[BaseMessage], take: Callable[[Scope, list[BaseMessage]], None]
) -> dict[int, Batch]:
    scope = BUDGET.open()
    before = before_turns(messages, partial(take, scope), scope)
    return {
        turn: turn_batch(scope, conversation, partial(take, scope, prompt_of(turn, messages)))
        for turn, conversation in before.items()
    }


def measure_counting() -> None:
    messages = said()
    plain, guarded = turn_batches(messages, count), turn_batches(messages, guard)
    batches = {f"count {turn}": run for turn, run in plain.items()}
    batches |= {f"guard {turn}": run for turn, run in guarded.items()}
    taken = medians(batches, 25)
    rows = [
        (
            f"turn {turn}, {2 * turn} messages",
            taken[f"count {turn}"],
            f"{taken[f'count {turn}'] / taken['count 1']:.2f}",
            taken[f"guard {turn}"],
            f"{taken[f'guard {turn}'] / taken['guard 1']:.2f}",
        )
        for turn in TURNS
    ]
    title = "count + bill one turn that adds 1 kB; 25 rounds of 200"
    show(title, ("us", "Conversation", "ratio", "describe", "ratio"), rows)
    for way in ("count", "guard"):
        ratio = taken[f"{way} {TURNS[-1]}"] / taken[f"{way} 1"]
        goal(f"{way}: turn {TURNS[-1]} over turn 1", ratio, 1.1, "times")


class Memory(NamedTuple):
    """What this process has allocated."""

    blocks: int
    kib: int

    @classmethod
    def now(cls) -> Memory:
        gc.collect()
        return cls(sys.getallocatedblocks(), _resident_kib())


def _resident_kib() -> int:
    """Resident memory now, or where the system does not say, the most there was."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def growth(operation: Callable[[], object], number: int) -> tuple[int, int, float]:
    """Blocks and KiB that remain after so many calls, and the microseconds of one."""
    for _ in range(WARM_UP):
        operation()
    before, start = Memory.now(), time.perf_counter()
    for _ in range(number):
        operation()
    spent = (time.perf_counter() - start) / number * 1e6
    after = Memory.now()
    return after.blocks - before.blocks, after.kib - before.kib, spent


def measure_growth() -> None:
    calls = growth(partial(admitted, WITH_TURNS.open()), ADMISSIONS)
    scopes = growth(used_once, OPENED)
    rows = [
        (f"{ADMISSIONS:,} admissions in one open scope", *calls),
        (f"{OPENED:,} scopes: open, admit, settle, close", *scopes),
    ]
    show("what is left", ("", "blocks", "RSS KiB", "us each"), rows)
    goal("admissions in one scope leave", calls[0] / ADMISSIONS, 0.001, "blocks each")
    goal("closed scopes leave", scopes[0] / OPENED, 0.001, "blocks each")


def used_scope() -> Scope:
    """An open scope in which an agent loop took one turn and goes on."""
    scope = BUDGET.open()
    prompt: list[BaseMessage] = [HumanMessage(SAID)]
    described = describe(scope, MODEL, prompt, OPTIONS, path=(scope.id,), in_graph=True)
    ticket = scope.admit(described.call)
    record_bill(described, USAGE)
    ticket.settle(USAGE)
    return scope


def sizes(make: Callable[[], Scope]) -> tuple[float, float, float]:
    """Bytes of an open scope; bytes left of a closed one, before and after a collection."""
    make().close()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    base = tracemalloc.get_traced_memory()[0]
    scopes = [make() for _ in range(KEPT_OPEN)]
    filled = tracemalloc.get_traced_memory()[0]
    while scopes:
        scopes.pop().close()
    dropped = tracemalloc.get_traced_memory()[0]
    gc.enable()
    gc.collect()
    collected = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    full, kept, gone = ((each - base) / KEPT_OPEN for each in (filled, dropped, collected))
    return full, kept, gone


def measure_sizes() -> None:
    new, used = sizes(BUDGET.open), sizes(used_scope)
    rows = [("new", *new), ("in an agent loop, one turn settled", *used)]
    header = ("bytes of a scope", "open", "closed, uncollected", "closed, collected")
    show(f"memory of {KEPT_OPEN:,} scopes, by tracemalloc", header, rows)
    goal("an open scope", max(new[0], used[0]), 8_192, "bytes")


def main() -> None:
    with asyncio.Runner() as runner:
        measure_admission(runner)
    measure_pricing()
    measure_counting()
    measure_growth()
    measure_sizes()


if __name__ == "__main__":
    main()
