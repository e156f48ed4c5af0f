"""What the store in Redis costs: a command beside a PING, and among many accounts.

Needs a redis-server on the PATH, and starts one of its own.
"""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis
from measure import batch, goal, medians, show_added

from budgetguard.stores.protocol import Address, Hold, Line, Settle
from budgetguard.stores.redis import RedisStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NUMBER, ROUNDS = 200, 41
FEW, MANY = 10, 100_000
NEED = (1_750, 1_000, 750, 0, 1, 10_000_000)
LIMITS = ((0, 10**12), (5, 10**15))


@contextmanager
def server() -> Iterator[str]:
    """The URL of a Redis that keeps nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            wait_for(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait()


def wait_for(port: int) -> None:
    with redis.Redis(port=port) as client:
        for _ in range(1_000):
            try:
                client.ping()
            except redis.RedisError:
                time.sleep(0.01)
            else:
                return
    sys.exit("redis-server does not answer")


def accounts(number: int) -> tuple[Address, ...]:
    return tuple(Address("bench", "order", str(each)) for each in range(number))


def holding(store: RedisStore, number: int) -> Callable[[], object]:
    """Holds, each time anew, in the same accounts."""
    lines = tuple(Line(address, LIMITS) for address in accounts(number))
    return lambda: store.run(Hold(str(time.perf_counter_ns()), NEED, lines))


def settling(store: RedisStore, number: int) -> Callable[[], object]:
    """Settles holds that were made for it before."""
    lines = tuple(Line(address, LIMITS) for address in accounts(number))
    ids = [f"settled {each}" for each in range((ROUNDS + 1) * NUMBER)]
    for id in ids:
        reply = store.run(Hold(id, NEED, lines))
    held = tuple((each.address, each.epoch) for each in reply.balances)
    left = iter(ids)
    return lambda: store.run(Settle(next(left), NEED, held))


def main() -> None:
    if shutil.which("redis-server") is None:
        print("no redis-server is on the PATH: nothing is measured")
        return
    with server() as url:
        store = RedisStore(f"{url}?lease=3600")
        with redis.Redis.from_url(url, protocol=2) as admin:
            ping = store._connect_here().ping
            compare_with_ping(store, ping)
            admin.flushall()
            compare_few_and_many(store)
        store.close()


def compare_with_ping(store: RedisStore, ping: Callable[[], object]) -> None:
    operations = {
        "PING": ping,
        "Hold, 1 account": holding(store, 1),
        "Hold, 3 accounts": holding(store, 3),
        "Settle, 1 account": settling(store, 1),
    }
    batches = {label: batch(operation, NUMBER) for label, operation in operations.items()}
    taken = medians(batches, ROUNDS)
    show_added("One command through the same client", taken)
    for label in list(taken)[1:]:
        goal(label, taken[label] / taken["PING"], 1.5, "x PING")


def compare_few_and_many(store: RedisStore) -> None:
    """Hold in accounts that are all open, a few of them or many in turn."""
    ids = itertools.count()
    every = accounts(MANY)
    for address in every:
        store.run(Hold(f"open {address.id}", NEED, (Line(address),)))
    turns = {"few": itertools.cycle(every[:FEW]), "many": itertools.cycle(every[::7])}

    def hold(which: str) -> Callable[[], object]:
        turn = turns[which]
        return lambda: store.run(Hold(str(next(ids)), NEED, (Line(next(turn), LIMITS),)))

    taken = medians({which: batch(hold(which), NUMBER) for which in turns}, ROUNDS)
    show_added(f"A hold in one of {FEW} accounts, and of {MANY:,}", taken)
    goal("a hold among many accounts", taken["many"] / taken["few"], 1.2, "x among few")


if __name__ == "__main__":
    main()
