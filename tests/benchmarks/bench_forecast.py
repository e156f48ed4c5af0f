"""What is held for calls without a cap: learned beside fixed; money used, answers cut off.

Bursts of 50 and of 500 calls at once, one after another until the first refusal, through the real
`Scope.aadmit` and `settle`. The provider is simulated: an answer has the length it wants or the cap
it was given, and takes a hundredth of a second per token, by a clock that jumps from one event to
the next. Each run draws a budget worth 50 to 200 mean calls, and a mean length of 100 to 800.

"No waiting" is how guards without a queue use the same holds: what finds no room is refused.
"Cold" runs have nothing learned; "warm" ones learned from a run before, of the same lengths.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import selectors
import statistics
import sys
from typing import TYPE_CHECKING, NamedTuple

from measure import SEED, goal, show

from budgetguard import Budget, BudgetExceeded, Call, Usage
from budgetguard.forecast import FORECAST

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgetguard import Scope

ROUNDS = int(os.environ.get("ROUNDS", "1000"))
FEWER = 10
"""One run in so many for what is only there to compare with."""
BURSTS = (50, 500)
LEAST_WORTH, MOST_WORTH = 50, 200
SHORTEST, LONGEST = 100, 800
SENT = 200
START_S, PER_TOKEN_S = 0.5, 0.01
MODEL_MAXIMUM = 16_384


class Kind(NamedTuple):
    """How lengths are distributed around their mean."""

    name: str
    sigma: float


LOGNORMAL = Kind("lognormal, sigma 1", 1.0)
MODERATE = Kind("lognormal, sigma 0.3", 0.3)


class Run(NamedTuple):
    """One budget, spent."""

    times: float
    """Spent, over the limit."""
    cut: float
    """Share of the answers that were cut off."""
    at_once: float
    """Calls in flight, on average over the time it took."""


class Clock(selectors.DefaultSelector):
    """Waits for nothing: time jumps to the next event."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


def event_loop(clock: Clock) -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now
    return loop


class Burst:
    """A budget, and what came of its calls."""

    def __init__(self, scope: Scope, call: Call, lengths: Callable[[], int], clock: Clock) -> None:
        self.scope, self.call, self.lengths, self.clock = scope, call, lengths, clock
        self.made = self.cut = 0
        self.busy_s = 0.0
        self.refused = False

    async def one(self) -> None:
        try:
            ticket = await self.scope.aadmit(self.call)
        except BudgetExceeded:
            self.refused = True
            return
        wanted = self.lengths()
        cap = ticket.plan.max_output_tokens
        assert cap is not None
        got = min(wanted, cap)
        took_s = START_S + got * PER_TOKEN_S
        await asyncio.sleep(took_s)
        self.busy_s += took_s
        self.made += 1
        self.cut += wanted > cap
        ticket.settle(Usage(SENT, got, truncated=wanted > cap))

    async def spend(self, size: int) -> None:
        while not self.refused:
            async with asyncio.TaskGroup() as group:
                for _ in range(size):
                    group.create_task(self.one())


def run_of(
    rng: random.Random, kind: Kind, size: int, cap: int | None, mean: float, patience_s: float
) -> Run:
    """One budget until its first refusal."""
    worth = rng.uniform(LEAST_WORTH, MOST_WORTH)
    limit = int(worth * (SENT + mean))
    mu = math.log(mean) - kind.sigma**2 / 2
    clock = Clock()
    scope = Budget("bench", tokens=limit, patience=patience_s).open()
    call = Call("some-model", input_tokens=SENT, max_output_tokens=cap)
    burst = Burst(scope, call, lambda: max(1, round(rng.lognormvariate(mu, kind.sigma))), clock)
    with asyncio.Runner(loop_factory=lambda: event_loop(clock)) as runner:
        runner.run(burst.spend(size))
    scope.close()
    assert scope.held.tokens == 0
    spent = scope.spent.tokens
    return Run(spent / limit, burst.cut / burst.made, burst.busy_s / clock.now)


def runs(
    kind: Kind, size: int, cap: int | None, *, warm: bool, rounds: int, patience_s: float = 86_400
) -> list[Run]:
    """Seeded runs; every variant sees the same ones."""
    done: list[Run] = []
    for number in range(rounds):
        FORECAST.forget()
        rng = random.Random(SEED + number)
        mean = math.exp(rng.uniform(math.log(SHORTEST), math.log(LONGEST)))
        if warm:
            run_of(rng, kind, size, cap, mean, 86_400)
        done.append(run_of(rng, kind, size, cap, mean, patience_s))
    return done


def row(name: str, done: list[Run]) -> tuple[object, ...]:
    used = [each.times for each in done]
    return (
        name,
        len(done),
        f"{max(used):.3f}x",
        100 * statistics.median(used),
        100 * min(used),
        100 * statistics.mean(each.cut for each in done),
        statistics.median(each.at_once for each in done),
    )


HEADER = (
    "held and capped at", "runs", "most spent", "used %: median", "least", "cut off %", "in flight",
)  # fmt: skip


def measure(kind: Kind, size: int, least_used: float) -> None:
    fewer = max(1, ROUNDS // FEWER)
    learned = {
        "learned, cold": runs(kind, size, None, warm=False, rounds=ROUNDS),
        "learned, warm": runs(kind, size, None, warm=True, rounds=ROUNDS),
    }
    fixed = {
        "4,096 tokens": runs(kind, size, 4_096, warm=False, rounds=fewer),
        "the model's maximum": runs(kind, size, MODEL_MAXIMUM, warm=False, rounds=fewer),
    }
    fixed |= {
        f"{name}, no waiting": runs(kind, size, cap, warm=warm, rounds=fewer, patience_s=0)
        for name, cap, warm in (
            ("learned, warm", None, True),
            ("4,096 tokens", 4_096, False),
            ("the model's maximum", MODEL_MAXIMUM, False),
        )
    }
    table = [row(name, done) for name, done in (learned | fixed).items()]
    show(f"bursts of {size} calls; {kind.name}", HEADER, table)
    for name, done in learned.items():
        used = 100 * statistics.median(each.times for each in done)
        cut = 100 * statistics.mean(each.cut for each in done)
        goal(f"{name}: spent", max(each.times for each in done), 1.0, "times the limit")
        goal(f"{name}: money left, median", 100 - used, 100 - least_used, "%")
        goal(f"{name}: cut off, mean", cut, 5, "%")


def main() -> None:
    for kind, least_used in ((LOGNORMAL, 90), (MODERATE, 95)):
        for size in BURSTS:
            measure(kind, size, least_used)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
