"""What the benchmarks share: interleaved rounds, medians, tables, goals.

Machines drift while they measure (clocks, neighbours, garbage collections), so variants that are to
be compared run in turn, a small batch each, in a new order every round, and medians are compared.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Batch = Callable[[], float]
    """Runs a small batch and returns what one operation took, in microseconds."""

SEED = 20261120

# A developer's own tracing must not be measured.
for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2"):
    os.environ[name] = "false"


def batch(operation: Callable[[], object], number: int) -> Batch:
    """A batch of `number` calls."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(number):
            operation()
        return (time.perf_counter() - start) / number * 1e6

    return run


def async_batch(
    runner: asyncio.Runner, operation: Callable[[], Awaitable[object]], number: int
) -> Batch:
    """A batch of `number` awaits, one after another, on the runner's event loop."""

    async def run() -> float:
        start = time.perf_counter()
        for _ in range(number):
            await operation()
        return (time.perf_counter() - start) / number * 1e6

    return lambda: runner.run(run())


def samples(batches: Mapping[str, Batch], rounds: int) -> dict[str, list[float]]:
    """What every batch took in every round, after one round to warm up."""
    order = random.Random(SEED)
    taken: dict[str, list[float]] = {label: [] for label in batches}
    for each in range(rounds + 1):
        for label in order.sample(list(batches), len(batches)):
            spent = batches[label]()
            if each:
                taken[label].append(spent)
    return taken


def medians(batches: Mapping[str, Batch], rounds: int) -> dict[str, float]:
    """The median microseconds of one operation of each batch."""
    return {label: statistics.median(taken) for label, taken in samples(batches, rounds).items()}


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print an aligned table; a float is shown with one decimal, `None` as a dash."""
    lines = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}")
    for line in lines:
        first, *rest = (text.ljust if not i else text.rjust for i, text in enumerate(line))
        print(" ", *(pad(width) for pad, width in zip((first, *rest), widths, strict=True)))


def show_added(title: str, taken: Mapping[str, float], *, what: str = "us") -> None:
    """Print medians beside the first of them: the baseline."""
    base = next(iter(taken.values()))
    rows = [(label, us, us - base, f"{us / base:.2f}") for label, us in taken.items()]
    show(title, ("", what, "added", "ratio"), rows)


def goal(what: str, value: float, limit: float, unit: str) -> None:
    """Print whether a goal is met; a missed one is told, not punished."""
    verdict = "met" if value <= limit else "MISSED"
    print(f"  goal: {what} at most {limit:g} {unit}: {value:.4g} {unit}, {verdict}".rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{round(value, 1) + 0.0:.1f}" if isinstance(value, float) else str(value)  # no "-0.0"
