"""What a share is worth: eight children beside a greedy sibling, with shares and without.

The greedy one starts first, with more calls than the budget can pay. Every child then makes a few
calls at once. With a share each of them completes some; without, the greedy one has spent it all.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time

from measure import SEED, goal, show

from budgetguard import Budget, BudgetExceeded, Call, Scope, Usage, fail, spent, when

RUNS = 20
CHILDREN = 8
CALLS = 4
CALL = Call(model="m", input_tokens=100, max_output_tokens=400)
PARENT = Budget("crew", tokens=30_000, patience=5, policy=when(spent(1.0), fail()))


async def one(scope: Scope, lengths: random.Random, waits: list[float]) -> bool:
    """A call; the time until it is answered goes into `waits`. Returns whether it was made."""
    started = time.perf_counter()
    try:
        ticket = await scope.aadmit(CALL)
    except BudgetExceeded:
        return False
    await asyncio.sleep(0.02)
    ticket.settle(Usage(100, min(400, int(lengths.lognormvariate(5, 1)))))
    waits.append(time.perf_counter() - started)
    return True


async def run(seed: int, share: float | None) -> tuple[list[int], list[float]]:
    """The completed calls of every child, and how long they waited."""
    lengths, waits = random.Random(seed), list[float]()
    with PARENT.open():
        greedy = Budget("greedy").open()
        children = [Budget(f"child-{n}", share=share).open() for n in range(CHILDREN)]
        flood = [asyncio.create_task(one(greedy, lengths, [])) for _ in range(200)]
        await asyncio.sleep(0)

        async def work(child: Scope) -> int:
            with child:
                return sum(
                    await asyncio.gather(*(one(child, lengths, waits) for _ in range(CALLS)))
                )

        done = await asyncio.gather(*(work(each) for each in children))
        for each in flood:
            each.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
    return list(done), waits


def main() -> None:
    rows: list[tuple[str, int, float, float | None]] = []
    for label, share in (("no shares", None), ("share=0.1", 0.1)):
        least, ratios, used = [], [], []
        for seed in range(SEED, SEED + RUNS):
            done, waits = asyncio.run(run(seed, share))
            least.append(min(done))
            used.append(sum(done))
            if waits:
                median = statistics.median(waits)
                ratios.append(max(waits) / median if median else 1.0)
        longest = statistics.median(ratios) if ratios else None
        rows.append((label, min(least), statistics.median(used), longest))
    header = ("", "least calls of a child", "calls of all children", "longest / median time")
    show(f"{CHILDREN} children of {CALLS} calls beside a greedy one; {RUNS} runs", header, rows)
    verdict = "met" if rows[-1][1] >= 1 else "MISSED"
    print(f"  goal: with a share every child completes at least 1 call, {verdict}")
    goal("the longest time is", rows[-1][3] or 0.0, 3, "times the median")


if __name__ == "__main__":
    main()
