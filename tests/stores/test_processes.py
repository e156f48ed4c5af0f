"""A fleet of real processes on one store: what they share, and what happens when one dies."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from budgetguard.spend import TOKENS, TURNS, USD
from budgetguard.stores.opening import open_store
from budgetguard.stores.protocol import Balance, Store
from tests.stores.conftest import RedisServer, running
from tests.stores.crew import Crew, Mate, settled_in, total

SEED = 20261120
WORKERS, CALLERS = 4, 12
CENT = 10_000_000
"""Nano-dollars."""


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with Crew(WORKERS, tmp_path_factory.mktemp("crew")) as crew:
        yield crew


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store."""
    if request.param == "redis":
        return request.getfixturevalue("redis_url")
    return f"sqlite:///{tmp_path / 'fleet.db'}"


@pytest.fixture
def id(request: pytest.FixtureRequest) -> str:
    return request.node.name


@pytest.fixture
def lasting_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that keeps what it was told, also when it is killed."""
    yield from running(tmp_path, "--appendonly", "yes", "--appendfsync", "always")


def balance(store: Store, id: str) -> Balance:
    return next(each for each in store.accounts() if each.address.id == id)


def until(true: Any, within_s: float) -> float:
    """Seconds until it was true."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < within_s, f"not within {within_s} s"
        time.sleep(0.01)
    return time.monotonic() - start


class Watch:
    """Looks at an account over and over, in a thread."""

    def __init__(self, url: str, id: str, limit_nano: int) -> None:
        self._store, self._id, self._limit = open_store(url), id, limit_nano
        self.looks = 0
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.wait(0.002):
            for each in self._store.accounts():
                if each.address.id == self._id:
                    self.looks += 1
                    self.most = max(self.most, each.settled[USD] + each.held[USD])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._store.close()
        assert self.looks > 0
        assert self.most <= self._limit


def test_forty_eight_threads_of_four_processes_share_exactly_ten_turns(
    crew: Crew, url: str, id: str
):
    answers, settled = crew.spree(
        way="threads", budget={"turns": 10, "store": url}, id=id, seed=SEED, callers=CALLERS
    )
    assert settled.calls == 10
    assert total(answers)["refused"] == WORKERS * CALLERS
    assert balance(open_store(url), id).settled[TURNS] == 10


@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_money_is_never_over_and_the_ledger_is_what_the_workers_settled(
    crew: Crew, url: str, id: str, way: str
):
    with Watch(url, id, 20 * CENT):
        answers, settled = crew.spree(
            way=way, budget={"usd": "0.20", "store": url}, id=id, seed=SEED, callers=CALLERS
        )
    ledger = balance(open_store(url), id)
    assert settled.unsure == ()
    assert ledger.settled[TURNS] == settled.calls
    assert ledger.settled[TOKENS] == settled.tokens
    assert 19 * CENT <= ledger.settled[USD] == settled.nano <= 20 * CENT
    assert not any(ledger.held + ledger.overshoot)
    assert ledger.late == 0
    found = total(answers)
    assert (found["unconfirmed"], found["queued"], found["renewed"]) == (0, 0, 0)
    assert set(found) <= {
        "calls", "truncated", "waited", "refused", "unconfirmed", "queued", "renewed",
        "seconds", "busy_s", "longest_admission_s",
    }  # fmt: skip


def test_a_twentieth_of_a_thousand_random_budgets_is_spent_and_never_over(
    crew: Crew, url: str, id: str
):
    """The benchmark bench_fleet.py does the thousand; here are 25 on each store."""
    rng = random.Random(SEED)
    calls = truncated = 0
    for run in range(25):
        mean, worth = rng.randint(100, 800), rng.randint(50, 200)
        limit = worth * (100 + 10 * mean) * 1_000  # nano-dollars: 1 and 10 dollars a million tokens
        account = f"{id}-{run}"
        answers, settled = crew.spree(
            way=("threads", "tasks")[run % 2],
            budget={"usd": f"{limit / 1e9:.9f}", "store": url},
            id=account, seed=run, callers=CALLERS, mean=mean, sigma=1.0,
        )  # fmt: skip
        ledger = balance(open_store(url), account)
        assert (ledger.settled[TURNS], ledger.settled[USD]) == (settled.calls, settled.nano)
        assert 0.9 * limit <= ledger.settled[USD] <= limit
        assert not any(ledger.held + ledger.overshoot)
        calls, truncated = calls + settled.calls, truncated + total(answers)["truncated"]
    assert truncated <= 0.05 * calls


def test_an_admission_that_waits_is_woken_by_a_settlement_in_another_process(
    crew: Crew, url: str, id: str
):
    one, other = crew.mates[:2]
    budget = {"tokens": 5_000, "store": url}
    for mate in (one, other):
        mate.ask("open", budget=budget, id=id)
    assert one.ask("admit", input_tokens=500)["held"] == 4_596
    other.tell("admit", input_tokens=500)
    time.sleep(0.2)
    settled = one.ask("settle", input_tokens=500, output_tokens=10)
    admitted = other.hear()
    assert settled["at"] < admitted["at"] < settled["at"] + 1.0
    other.ask("settle", input_tokens=500, output_tokens=10)


def test_a_call_that_takes_longer_than_the_lease_keeps_its_hold(crew: Crew, url: str, id: str):
    one, other = crew.mates[:2]
    budget = {"tokens": 5_000, "patience": 0.0, "store": f"{url}?lease=0.4"}
    for mate in (one, other):
        mate.ask("open", budget=budget, id=id)
    assert one.ask("admit", input_tokens=500)["held"] == 4_596
    time.sleep(1.2)
    assert other.ask("admit", input_tokens=500)["error"] == "BudgetBusy"
    assert one.ask("settle", input_tokens=500, output_tokens=10)["late"] == 0
    ledger = balance(open_store(url), id)
    assert (ledger.settled[TOKENS], ledger.released, ledger.late) == (510, 0, 0)


def test_a_worker_that_was_stopped_beyond_its_lease_settles_late_and_is_charged(
    crew: Crew, url: str, id: str
):
    one, other = crew.mates[:2]
    budget = {"tokens": 5_000, "store": f"{url}?lease=0.4"}
    for mate in (one, other):
        mate.ask("open", budget=budget, id=id)
    one.ask("admit", input_tokens=500)
    one.stop()
    try:
        admitted = other.ask("admit", input_tokens=500)
    finally:
        one.go_on()
    assert admitted["at"] - admitted["from"] < 0.4 + 1.0
    other.ask("settle", input_tokens=500, output_tokens=10)
    settled = one.ask("settle", input_tokens=500, output_tokens=1_000)
    assert (settled["late"], settled["unconfirmed"]) == (1, 0)
    ledger = balance(open_store(url), id)
    assert (ledger.settled[TOKENS], ledger.held[TOKENS], ledger.late) == (2_010, 0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_worker_loses_no_token_and_its_holds_come_back_when_its_lease_is_over(
    crew: Crew, url: str, id: str, seed: int
):
    """What it was settling when it was killed may be in the ledger, or not; the rest is exact."""
    lease_s = 0.5
    rng = random.Random(SEED + seed)
    budget = {"usd": "0.40", "store": f"{url}?lease={lease_s}"}
    logs = crew.start(way="threads", budget=budget, id=id, seed=seed, callers=CALLERS)
    enough = rng.randrange(1, 60)
    until(lambda: settled_in(logs).calls >= enough, within_s=10)
    victim = rng.randrange(WORKERS)
    crew.mates[victim].kill()
    killed = time.monotonic()
    survivors = [mate.hear() for worker, mate in enumerate(crew.mates) if worker != victim]
    assert time.monotonic() - killed < lease_s + 1.0
    ledger = balance(open_store(url), id)
    turns, tokens, nano = (ledger.settled[each] for each in (TURNS, TOKENS, USD))
    assert settled_in(logs).explains(turns, tokens, nano)
    assert not any(ledger.held)
    assert 38 * CENT <= nano <= 40 * CENT
    assert total(survivors)["refused"] == (WORKERS - 1) * CALLERS
    assert total(survivors)["unconfirmed"] == 0


def test_a_redis_that_is_restarted_and_keeps_its_data_loses_nothing_and_counts_nothing_twice(
    crew: Crew, lasting_redis: RedisServer, id: str
):
    budget = {"usd": "1.50", "store": f"{lasting_redis.url}?timeout=1"}
    logs = crew.start(way="threads", budget=budget, id=id, seed=SEED, callers=CALLERS)
    until(lambda: settled_in(logs).calls >= 30, within_s=10)
    lasting_redis.stop()
    time.sleep(0.2)
    lasting_redis.start()
    found = total(mate.hear() for mate in crew.mates)
    assert found["unavailable"] > 0
    assert not [each for each in found if each.startswith("foreign")]
    settled, ledger = settled_in(logs), balance(open_store(lasting_redis.url), id)
    assert settled.unsure == ()
    assert settled.explains(*(ledger.settled[each] for each in (TURNS, TOKENS, USD)))
    assert 145 * CENT <= ledger.settled[USD] <= 150 * CENT
    assert not any(ledger.held + ledger.overshoot)
    assert (found["unconfirmed"], found["queued"], found["renewed"]) == (0, 0, 0)


def test_a_redis_that_lost_its_data_starts_a_new_account_to_which_older_calls_are_added(
    crew: Crew, redis_server: RedisServer, id: str
):
    """So a fleet may use its budget once more, and no more than that."""
    budget = {"usd": "1.50", "store": f"{redis_server.url}?timeout=1"}
    logs = crew.start(way="threads", budget=budget, id=id, seed=SEED, callers=CALLERS)
    until(lambda: settled_in(logs).calls >= 30, within_s=10)
    before = settled_in(logs)
    redis_server.restart()
    found = total(mate.hear() for mate in crew.mates)
    assert not [each for each in found if each.startswith("foreign")]
    settled, ledger = settled_in(logs), balance(open_store(redis_server.url), id)
    assert settled.nano - before.nano >= ledger.settled[USD] >= 145 * CENT
    assert settled.nano <= 2 * 150 * CENT
    assert not any(ledger.held)
    assert (found["unconfirmed"], found["queued"], found["renewed"]) == (0, 0, 0)


def test_an_account_in_a_file_goes_on_in_a_new_process(tmp_path: Path):
    budget = {"turns": 3, "store": f"sqlite:///{tmp_path / 'fleet.db'}"}
    seen: list[Any] = []
    for _ in range(2):
        mate = Mate()
        mate.ask("open", budget=budget, id="one")
        seen.append(mate.ask("look")["turns"])
        for _ in range(2):
            seen.append(mate.ask("admit", input_tokens=10).get("error", "admitted"))
            mate.ask("settle", input_tokens=10, output_tokens=10)
        mate.kill()
    assert seen == [0, "admitted", "admitted", 2, "admitted", "BudgetExceeded"]
