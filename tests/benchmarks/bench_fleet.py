"""Whether a limit holds, and is used, when a fleet of real processes spends it all at once.

Every caller makes one call after another until it is refused, and none sets max_tokens. Lengths of
answers are lognormal (mean 400 tokens, sigma 1), a budget is worth 50 to 200 mean calls. Beside it,
in the same processes and on the same stores, what people build themselves: to read what is spent,
call, and add; or to reserve the longest answer the model can give, and refuse what does not fit.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from measure import SEED, goal, show

from budgetguard.spend import TOKENS, TURNS, USD, ZERO, Usage, Vector
from budgetguard.stores.opening import open_store
from budgetguard.stores.protocol import Address, Hold, Line, Read, Settle
from tests.stores.conftest import RedisServer
from tests.stores.crew import Crew, settled_in, total
from tests.stores.worker import WAYS, OverLimitError, Worker, each_in_a_thread

if TYPE_CHECKING:
    from budgetguard.stores.protocol import Balance, Store
    from tests.stores.worker import Spree

MEAN_NANO = 100 * 1_000 + 400 * 10_000
"""What a mean call costs: 100 tokens in, 400 out, at $1 and $10 per million."""
MODEL_MAX = 16_384
"""The longest answer that the model gives, for who reserves the maximum."""
WORKERS = 4
BURSTS = (50, 500)
KILLS, KILL_LEASE_S = 100, 0.5
STORES: dict[str, Store] = {}


class Sum:
    """What is spent and held in the memory of this process, behind a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {}
        self._spent = 0

    def spent(self) -> int:
        with self._lock:
            return self._spent

    def hold(self, id: str, nano: int, limit: int) -> bool:
        with self._lock:
            fits = self._spent + sum(self._taken.values()) + nano <= limit
            if fits:
                self._taken[id] = nano
            return fits

    def add(self, id: str, nano: int) -> None:
        with self._lock:
            self._taken.pop(id, None)
            self._spent += nano


class StoredSum:
    """The same in a store, each step an atomic one."""

    def __init__(self, url: str, id: str) -> None:
        self._store = STORES.setdefault(url, open_store(url))
        self._address = Address("", "baseline", id)

    def spent(self) -> int:
        return self._store.run(Read((self._address,))).balances[0].settled[USD]

    def hold(self, id: str, nano: int, limit: int) -> bool:
        line = Line(self._address, ((USD, limit),))
        return self._store.run(Hold(id, _nano(nano), (line,))).short is None

    def add(self, id: str, nano: int) -> None:
        self._store.run(Settle(id, _nano(nano), ((self._address, 0),)))


def _nano(nano: int) -> Vector:
    return (*ZERO[:USD], nano)


def check_then_add(spree: Spree) -> None:
    """Read what is spent, call, add."""
    _by_sum(spree, reserve=0)


def reserve_maximum(spree: Spree) -> None:
    """Hold what the longest answer would cost, refuse at once what does not fit."""
    _by_sum(spree, reserve=100 * 1_000 + MODEL_MAX * 10_000)


def _by_sum(spree: Spree, *, reserve: int) -> None:
    job = spree.job
    limit, url = job["limit"], job["budget"]["store"]
    taken = Sum() if url is None else StoredSum(url, job["id"])
    numbers = random.Random(f"{job['seed']}/{job['worker']}")
    lock = threading.Lock()

    def call(length: int) -> None:
        with lock:
            id = f"{numbers.getrandbits(64):x}"
        start = time.monotonic()
        fits = taken.hold(id, reserve, limit) if reserve else taken.spent() < limit
        if not fits:
            raise OverLimitError
        admission_s = time.monotonic() - start
        used = Usage(100, min(length, MODEL_MAX), truncated=length > MODEL_MAX)
        time.sleep(spree.lasts_s(used.output_tokens))
        spree.settling(id, used)
        taken.add(id, 100 * 1_000 + used.output_tokens * 10_000)
        spree.settled(id, used, admission_s=admission_s)

    each_in_a_thread(spree, call)


WAYS |= {"check, then add": check_then_add, "reserve the maximum": reserve_maximum}


class Run(NamedTuple):
    """One budget, spent by one fleet."""

    times: float
    """What was billed, over the limit."""
    calls: int
    truncated: int
    waited: int
    unavailable: int
    agrees: bool
    """Whether the store's ledger is what the workers settled."""
    seconds: float
    longest_s: float


class Bench:
    """The fleets, and where they keep what they spend."""

    def __init__(self, folder: Path, redis_url: str | None) -> None:
        self.folder = folder
        self.urls: dict[str, str | None] = {
            "memory": None,
            "SQLite": f"sqlite:///{folder / 'fleet.db'}",
        }
        if redis_url is not None:
            self.urls["Redis"] = redis_url
        self.alone = Crew(1, folder / "alone", Path(__file__))
        self.fleet = Crew(WORKERS, folder / "fleet", Path(__file__))

    def run(self, place: str, way: str, burst: int, seed: int) -> Run:
        """Spend one budget."""
        url, crew = self.urls[place], self.alone if place == "memory" else self.fleet
        rng = random.Random(f"{SEED}/{seed}")
        limit = rng.randrange(50, 201) * MEAN_NANO
        id = f"{way}/{burst}/{seed}"
        budget = {"usd": f"{limit / 1e9:.9f}", "store": url, "patience": 120.0}
        size = len(crew.mates)
        sizes = [burst // size + (each < burst % size) for each in range(size)]
        start = time.monotonic()
        logs = crew.start(sizes, way=way, budget=budget, limit=limit, id=id, seed=seed, callers=0)
        found = total(mate.hear() for mate in crew.mates)
        seconds = time.monotonic() - start
        if strange := [each for each in found if each.startswith("foreign")]:
            raise RuntimeError(strange)
        settled = settled_in(logs)
        for log in logs:
            log.unlink()
        agrees = not found["unconfirmed"]
        if url is None:
            agrees &= found["spent"] == settled.nano or way not in {"threads", "tasks"}
        elif way in {"threads", "tasks"}:
            ledger = balance_of(url, id)
            agrees &= settled[:3] == tuple(ledger.settled[each] for each in (TURNS, TOKENS, USD))
            agrees &= not any(ledger.held)
        return Run(
            settled.nano / limit, settled.calls, found["truncated"], found["waited"],
            found["unavailable"], agrees, seconds, found["longest_admission_s"],
        )  # fmt: skip

    def end(self) -> None:
        self.alone.end()
        self.fleet.end()


def balance_of(url: str, id: str) -> Balance:
    store = STORES.setdefault(url, open_store(url))
    return store.run(Read((Address("", "fleet", id),))).balances[0]


def compare(bench: Bench, burst: int, runs: int) -> list[Run]:
    """One table for bursts of that size; returns the runs of budgetguard."""
    ours = "threads" if burst == BURSTS[0] else "tasks"
    rows: list[tuple[Any, ...]] = []
    all_ours: list[Run] = []
    for place in bench.urls:
        for way in (ours, "check, then add", "reserve the maximum"):
            number = runs if way == ours else max(3, runs // 10)
            done = [bench.run(place, way, burst, seed) for seed in range(number)]
            rows.append(row(f"{place}: {f'budgetguard, {way}' if way == ours else way}", done))
            if way == ours:
                all_ours += done
    title = f"{burst} callers at once; one process in memory, {WORKERS} on a store"
    header = (
        "", "runs", "most x limit", "used % median", "least", "truncated %", "calls", "waited %",
        "longest wait s", "ledger", "s per run",
    )  # fmt: skip
    show(title, header, rows)
    return all_ours


def row(label: str, done: list[Run]) -> tuple[Any, ...]:
    calls = max(1, sum(each.calls for each in done))
    differing = sum(not each.agrees for each in done)
    return (
        label,
        len(done),
        f"{max(each.times for each in done):.3f}",
        f"{100 * statistics.median(each.times for each in done):.1f}",
        f"{100 * min(each.times for each in done):.1f}",
        f"{100 * sum(each.truncated for each in done) / calls:.2f}",
        calls,
        f"{100 * sum(each.waited for each in done) / calls:.0f}",
        f"{max(each.longest_s for each in done):.2f}",
        "-" if "budgetguard" not in label else f"differs in {differing}" if differing else "same",
        f"{statistics.median(each.seconds for each in done):.2f}",
    )


def tell_goals(done: list[Run]) -> None:
    calls = sum(each.calls for each in done)
    goal(f"in {len(done)} runs a fleet spent", max(each.times for each in done), 1, "x its limit")
    goal("money left in the median", 100 - 100 * statistics.median(e.times for e in done), 5, "%")
    goal("money left in the worst run", 100 - 100 * min(e.times for e in done), 10, "%")
    goal("answers cut off", 100 * sum(each.truncated for each in done) / calls, 5, "%")
    goal("the ledger differs in", sum(not each.agrees for each in done), 0, "runs")


class Killed(NamedTuple):
    """What a kill -9 of one worker left behind."""

    explained: bool
    held_back_s: float
    unsure: int
    times: float


def kill_one(crew: Crew, url: str, seed: int) -> Killed:
    """Kill one worker of four somewhere in the middle, and let the others spend what is left."""
    rng = random.Random(f"{SEED}/kill/{seed}")
    limit, id = 100 * MEAN_NANO, f"kill/{seed}"
    separator = "&" if "?" in url else "?"
    store = f"{url}{separator}lease={KILL_LEASE_S}"
    budget = {"usd": f"{limit / 1e9:.9f}", "store": store, "patience": 120.0}
    logs = crew.start(way="threads", budget=budget, id=id, seed=seed, callers=12)
    enough = rng.randrange(1, 80)
    while settled_in(logs).calls < enough:
        time.sleep(0.002)
    victim = rng.randrange(WORKERS)
    crew.mates[victim].kill()
    start = time.monotonic()
    for worker, mate in enumerate(crew.mates):
        if worker != victim:
            mate.hear()
    while any((ledger := balance_of(url, id)).held):
        time.sleep(0.01)
    back_s = time.monotonic() - start
    settled = settled_in(logs)
    explained = settled.explains(*(ledger.settled[each] for each in (TURNS, TOKENS, USD)))
    return Killed(explained, back_s, len(settled.unsure), ledger.settled[USD] / limit)


def kill(bench: Bench, kills: int) -> None:
    """One table of kills."""
    rows: list[tuple[Any, ...]] = []
    every: list[Killed] = []
    for place in [each for each in bench.urls if each != "memory"]:
        url = bench.urls[place]
        assert url is not None
        with Crew(WORKERS, bench.folder / "kill" / place) as crew:
            done = [kill_one(crew, url, seed) for seed in range(kills)]
        every += done
        slowest = max(each.held_back_s for each in done)
        wrong = sum(not each.explained for each in done)
        least, most = min(each.times for each in done), max(each.times for each in done)
        unsure = sum(each.unsure for each in done)
        used = f"{100 * least:.1f}..{100 * most:.1f}"
        rows.append((place, len(done), wrong, unsure, f"{slowest:.2f}", used))
    header = ("", "kills", "ledger wrong", "cut off while settling", "slowest back s", "used %")
    show(f"kill -9 of one worker of {WORKERS}; a lease is {KILL_LEASE_S} s", header, rows)
    goal("the ledger was wrong after", sum(not each.explained for each in every), 0, "kills")
    slowest = max(each.held_back_s for each in every)
    goal("all was settled and given back within", slowest, KILL_LEASE_S + 1, "s")
    goal("a fleet spent", max(each.times for each in every), 1, "x its limit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=170, help="of each size and place")
    parser.add_argument("--kills", type=int, default=KILLS // 2, help="on each store")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for each in ("alone", "fleet", "kill/SQLite", "kill/Redis", "redis"):
            (folder / each).mkdir(parents=True)
        bench = Bench(folder, redis_here(stack, folder / "redis"))
        stack.callback(bench.end)
        done = [run for burst in BURSTS for run in compare(bench, burst, given.runs)]
        tell_goals(done)
        kill(bench, given.kills)
        for store in STORES.values():
            store.close()


def redis_here(stack: ExitStack, folder: Path) -> str | None:
    """A server of our own, where there is one."""
    server = RedisServer(folder)
    try:
        server.start()
    except FileNotFoundError:
        print("no redis-server is on the PATH: Redis is left out")
        return None
    stack.callback(server.stop)
    return server.url


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        Worker().run()
    else:
        main()
