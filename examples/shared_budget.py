"""Four worker processes, one budget: a SQLite file keeps the account, and the limit holds for all.

Each worker makes calls until it is refused. The model here only sleeps; with a real one nothing
else changes: give the handler of your agent a budget with a store.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from budgetguard import Budget, BudgetExceeded, Call, Price, Usage
from budgetguard.cli import main as show
from budgetguard.stores.link import close_links

WORKERS = 4
TURNS = 40


def budget(store: str) -> Budget:
    prices = {"some-model": Price(input="1", output="10")}
    return Budget("fleet", usd="0.10", turns=TURNS, window="day", store=store, prices=prices)


def work(store: str, name: str) -> None:
    lengths = random.Random(name)  # noqa: S311 -- not a secret
    calls = 0
    with budget(store).open() as task:
        while True:
            try:
                ticket = task.admit(Call(model="some-model", input_tokens=500))
            except BudgetExceeded as refused:
                # In one piece: the others print too.
                print(f"worker {name}: {calls} calls, then {refused}\n", end="")
                return
            time.sleep(0.02)  # the model thinks
            answer = min(lengths.randint(50, 600), ticket.plan.max_output_tokens or 600)
            ticket.settle(Usage(500, answer))
            calls += 1


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder, 'accounts.db')}"
        command = [sys.executable, __file__, store]
        workers = [subprocess.Popen([*command, str(n)]) for n in range(WORKERS)]  # noqa: S603
        for worker in workers:
            assert worker.wait() == 0
        with budget(store).open() as task:
            task.refresh()
            assert task.spent.turns <= TURNS
            assert task.spent.usd <= task.limits.usd
        close_links()
        show(["accounts", store])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(sys.argv[1], sys.argv[2])
    else:
        main()
