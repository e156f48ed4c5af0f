"""What a SQLite store costs: hold + settle, alone, in nested accounts, and in a crowd.

The baseline is what SQLite itself takes for a transaction with one plain INSERT.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from measure import batch, goal, medians, show, show_added

from budgetguard.spend import TURNS, USD
from budgetguard.stores.protocol import Address, Hold, Line, Read, Settle
from budgetguard.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgetguard.stores.protocol import Store

NEED = (1_000, 500, 500, 0, 1, 5_000_000)
LIMITS = ((TURNS, 10**9), (USD, 10**18))
CROWD_S = 4.0
IDS = itertools.count()


def addresses(depth: int, window: str = "") -> tuple[Address, ...]:
    return tuple(Address("bench", f"level {i}", "one", window) for i in range(depth))


def hold_and_settle(store: Store, accounts: tuple[Address, ...], loop: str = "") -> None:
    id = f"{os.getpid()}-{next(IDS)}"
    reserve = NEED if loop else (0,) * 6
    held = store.run(Hold(id, NEED, tuple(Line(each, LIMITS, reserve) for each in accounts), loop))
    assert held.short is None
    store.run(Settle(id, NEED, tuple((each.address, each.epoch) for each in held.balances)))


def read(store: Store, accounts: tuple[Address, ...]) -> None:
    store.run(Read(accounts))


def inserter(path: Path) -> Callable[[], None]:
    """A transaction of one INSERT, set up as the store sets up its own."""
    db = sqlite3.connect(path, timeout=0, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE plain (id INTEGER PRIMARY KEY, amount INTEGER)")

    def insert() -> None:
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO plain (amount) VALUES (1)")
        db.execute("COMMIT")

    return insert


def measure_alone(folder: Path) -> None:
    store = SQLiteStore(folder / "alone.db")
    one, three = addresses(1), addresses(3)
    hour = addresses(1, time.strftime("%Y-%m-%dT%H", time.gmtime()))
    taken = medians(
        {
            "plain INSERT, one transaction": batch(inserter(folder / "plain.db"), 100),
            "read, 1 account": batch(partial(read, store, one), 100),
            "hold + settle, 1 account": batch(partial(hold_and_settle, store, one), 100),
            "the same in an agent loop": batch(partial(hold_and_settle, store, one, "l"), 100),
            "the same in a window": batch(partial(hold_and_settle, store, hour), 100),
            "hold + settle, 3 accounts": batch(partial(hold_and_settle, store, three), 100),
        },
        25,
    )
    show_added("one process; 25 rounds of 100", taken)
    goal("hold + settle, 1 account", taken["hold + settle, 1 account"], 1_000, "us")


def keep_on(store: Store, until: float) -> list[float]:
    """Milliseconds of each hold + settle on the one account of everybody."""
    taken: list[float] = []
    accounts = addresses(1)
    while time.time() < until:
        start = time.perf_counter()
        hold_and_settle(store, accounts)
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


def in_processes(path: Path, workers: int) -> list[list[float]]:
    until = time.time() + 1 + CROWD_S
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return pool.starmap(in_process, [(path, until)] * workers)


def in_process(path: Path, until: float) -> list[float]:
    return keep_on(SQLiteStore(path), until)


def in_threads(stores: list[SQLiteStore]) -> list[list[float]]:
    until = time.time() + CROWD_S
    taken: list[list[float]] = []
    threads = [
        threading.Thread(target=lambda each=each: taken.append(keep_on(each, until)))
        for each in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def measure_crowd(folder: Path) -> None:
    shared = SQLiteStore(folder / "threads.db")
    crowds = {
        "1 process": in_processes(folder / "1.db", 1),
        "2 processes": in_processes(folder / "2.db", 2),
        "4 processes": in_processes(folder / "4.db", 4),
        "4 threads, one connection": in_threads([shared] * 4),
        "4 threads, a connection each": in_threads(
            [SQLiteStore(folder / "each.db") for _ in range(4)]
        ),
    }
    rows = []
    for label, workers in crowds.items():
        taken = sorted(itertools.chain(*workers))
        p50, p99, worst = statistics.median(taken), taken[int(len(taken) * 0.99)], taken[-1]
        least, most = min(map(len, workers)), max(map(len, workers))
        rate = sum(1 / statistics.mean(each) for each in workers) * 1e3
        rows.append((label, int(rate), p50, p99, worst, f"{least / most:.2f}"))
    header = ("hold + settle without a pause", "each s", "ms p50", "p99", "worst", "least/most")
    show(f"one account, {CROWD_S:g} s", header, rows)
    goal("4 processes, p99", rows[2][3], 100, "ms")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        measure_alone(Path(name))
        measure_crowd(Path(name))


if __name__ == "__main__":
    main()
