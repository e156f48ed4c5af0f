"""One worker of a fleet: a process that does what lines of JSON on stdin say.

It answers each line with one on stdout. What it settles it also writes to a log, before and after,
so that it is known even of a worker that was killed in between.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from budgetguard import Budget, BudgetExceeded, BudgetGuardError, Price, events
from budgetguard.call import Call
from budgetguard.spend import OUTPUT, TOKENS, USD, Usage
from budgetguard.stores.link import close_links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from budgetguard.scope import Scope
    from budgetguard.ticket import Ticket

    Way = Callable[["Spree"], None]

PRICE = Price(input="1", output="10")
CAP = 4_096
"""The output cap of a call that is asked for by itself, whatever was learned before."""

AGAIN_S = 0.02
"""How long a caller waits after an error of ours before it tries again."""


class OverLimitError(Exception):
    """What limits raise that are not ours."""


def budget_of(job: dict[str, Any]) -> Budget:
    return Budget("fleet", prices={"m": PRICE}, **job["budget"])


class Spree:
    """Many callers at once, each of which makes one call after another, until it is refused."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.call = Call(model="m", input_tokens=job.get("input_tokens", 100))
        self.found: Counter[str] = Counter()
        self.longest_admission_s = 0.0
        self.lock = threading.Lock()  # protects the counts above
        self._log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def lengths(self, caller: int) -> Iterator[int]:
        """What each answer of a caller would have without a cap."""
        job = self.job
        rng = random.Random(f"{job['seed']}/{job['worker']}/{caller}")
        mean, sigma = job.get("mean", 400), job.get("sigma", 1.0)
        for _ in range(job.get("calls", 10**6)):
            length = rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)
            yield max(1, round(length))

    def lasts_s(self, output: int) -> float:
        return self.job.get("least_s", 0.001) + output * self.job.get("token_s", 5e-6)

    def settling(self, number: str, used: Usage) -> None:
        self._write("+", number, used)

    def settled(self, number: str, used: Usage, *, admission_s: float) -> None:
        self._write("=", number, used)
        with self.lock:
            self.found["calls"] += 1
            self.found["truncated"] += used.truncated
            self.found["waited"] += admission_s > 0.05
            self.longest_admission_s = max(self.longest_admission_s, admission_s)

    def failed(self, error: Exception) -> bool:
        """Count an error; whether to try again."""
        refused = isinstance(error, BudgetExceeded | OverLimitError)
        ours = isinstance(error, BudgetGuardError)
        kind = "refused" if refused else "unavailable" if ours else f"foreign {error!r}"
        with self.lock:
            self.found[kind] += 1
        return ours and not refused

    def _write(self, mark: str, number: str, used: Usage) -> None:
        nano = used.input_tokens * 1_000 + used.output_tokens * 10_000
        os.write(self._log, f"{mark} {number} {used.tokens} {nano}\n".encode())

    def close(self) -> None:
        os.close(self._log)


def answer(ticket: Ticket, length: int) -> Usage:
    """What a provider bills that keeps to the cap."""
    cap = ticket.plan.max_output_tokens or ticket.need[OUTPUT]
    return Usage(ticket.call.input_tokens, min(length, cap), truncated=length > cap)


def in_threads(spree: Spree) -> None:
    with budget_of(spree.job).open(id=spree.job["id"]) as scope:
        each_in_a_thread(spree, lambda length: _sync_call(spree, scope, length))
        spree.found.update(_mirror(scope))


def each_in_a_thread(spree: Spree, make: Callable[[int], None]) -> None:
    """Callers that make their calls with `make`, which is given the length of an answer."""

    def run(caller: int) -> None:
        for length in spree.lengths(caller):
            try:
                make(length)
            except Exception as error:
                if not spree.failed(error):
                    return
                time.sleep(AGAIN_S)

    with ThreadPoolExecutor(spree.job["callers"]) as threads:
        list(threads.map(run, range(spree.job["callers"])))


def _sync_call(spree: Spree, scope: Scope, length: int) -> None:
    start = time.monotonic()
    ticket = scope.admit(spree.call)
    admission_s = time.monotonic() - start
    used = answer(ticket, length)
    time.sleep(spree.lasts_s(used.output_tokens))
    spree.settling(ticket.call_id, used)
    ticket.settle(used)
    spree.settled(ticket.call_id, used, admission_s=admission_s)


def in_tasks(spree: Spree) -> None:
    asyncio.run(_all_tasks(spree))


async def _all_tasks(spree: Spree) -> None:
    with budget_of(spree.job).open(id=spree.job["id"]) as scope:
        await asyncio.gather(*(_task(spree, scope, each) for each in range(spree.job["callers"])))
        spree.found.update(_mirror(scope))


async def _task(spree: Spree, scope: Scope, caller: int) -> None:
    for length in spree.lengths(caller):
        try:
            await _async_call(spree, scope, length)
        except Exception as error:
            if not spree.failed(error):
                return
            await asyncio.sleep(AGAIN_S)


async def _async_call(spree: Spree, scope: Scope, length: int) -> None:
    start = time.monotonic()
    ticket = await scope.aadmit(spree.call)
    admission_s = time.monotonic() - start
    used = answer(ticket, length)
    await asyncio.sleep(spree.lasts_s(used.output_tokens))
    spree.settling(ticket.call_id, used)
    ticket.settle(used)
    await ticket.delivered()
    spree.settled(ticket.call_id, used, admission_s=admission_s)


def _mirror(scope: Scope) -> dict[str, int]:
    """What this process still believes to be unknown to the store: nothing, once all is told."""
    account = scope.account
    if not account.shared:
        return {"unconfirmed": int(any(account.held)), "spent": account.settled[USD]}
    give_up = time.monotonic() + 10
    while account.link.undelivered and time.monotonic() < give_up:
        time.sleep(0.005)
    unconfirmed = account._unconfirmed
    return {
        "unconfirmed": sum(map(abs, unconfirmed.held + unconfirmed.settled)),
        "queued": len(account.waiters or ()) + account.link.undelivered,
        "renewed": len(account.link.leases._holds),
    }


WAYS: dict[str, Way] = {"threads": in_threads, "tasks": in_tasks}


class Worker:
    """Does one line after another."""

    def __init__(self) -> None:
        self._scope: Scope | None = None
        self._ticket: Ticket | None = None
        self._late = 0
        events.subscribe(self._count)

    def _count(self, event: events.Event) -> None:
        self._late += isinstance(event, events.Late)

    def spree(self, job: dict[str, Any]) -> dict[str, Any]:
        """Make calls until they are refused."""
        start, used = time.monotonic(), time.process_time()
        spree = Spree(job)
        WAYS[job["way"]](spree)
        spree.close()
        return {
            **spree.found,
            "seconds": time.monotonic() - start,
            "busy_s": time.process_time() - used,
            "longest_admission_s": spree.longest_admission_s,
        }

    def open(self, job: dict[str, Any]) -> dict[str, Any]:
        self._scope, self._late = budget_of(job).open(id=job["id"]), 0
        return {}

    def admit(self, job: dict[str, Any]) -> dict[str, Any]:
        """Admit one call, and keep it."""
        assert self._scope is not None
        start = time.monotonic()
        try:
            call = Call(model="m", input_tokens=job["input_tokens"], max_output_tokens=CAP)
            self._ticket = self._scope.admit(call)
        except BudgetGuardError as error:
            return {"error": type(error).__name__, "at": time.monotonic(), "from": start}
        return {"held": self._ticket.need[TOKENS], "at": time.monotonic(), "from": start}

    def settle(self, job: dict[str, Any]) -> dict[str, Any]:
        """Settle the call that is kept."""
        assert self._ticket is not None
        at = time.monotonic()
        self._ticket.settle(Usage(job["input_tokens"], job["output_tokens"]))
        return {"at": at, "late": self._late, **_mirror(self._ticket.scope)}

    def look(self, job: dict[str, Any]) -> dict[str, Any]:
        """What the open scope tells, after asking the store."""
        assert self._scope is not None
        self._scope.refresh()
        spent = self._scope.spent
        return {
            "turns": spent.turns,
            "tokens": spent.tokens,
            "nano": self._scope.account.settled[USD],
        }

    def run(self) -> None:
        for line in sys.stdin:
            job = json.loads(line)
            try:
                answer = getattr(self, job["do"])(job)
            except Exception as error:
                answer = {"foreign": repr(error)}
            print(json.dumps(answer), flush=True)
        close_links()


if __name__ == "__main__":
    Worker().run()
