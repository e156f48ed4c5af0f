"""Crew: the workers of a fleet, real processes, seen from the one that tells them what to do."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")
PATIENCE_S = 60.0


class Mate:
    """One process that runs worker.py."""

    def __init__(self, script: Path = WORKER) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
        self.process = subprocess.Popen(
            [sys.executable, str(script), "worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def tell(self, do: str, **job: Any) -> None:
        """Say what to do, without waiting until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **job}) + "\n")
        self.process.stdin.flush()

    def hear(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """What it answers."""
        line = self._lines.get(timeout=timeout_s)
        assert line, "the worker is gone"
        return json.loads(line)

    def ask(self, do: str, **job: Any) -> dict[str, Any]:
        self.tell(do, **job)
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait(PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")


class Crew:
    """Several of them; one that was killed is replaced when it is needed."""

    def __init__(self, size: int, folder: Path, script: Path = WORKER) -> None:
        self._script = script
        self._folder = folder
        self._numbers = itertools.count()
        self.mates = [self._mate() for _ in range(size)]

    def start(self, sizes: Sequence[int] | None = None, **job: Any) -> list[Path]:
        """Have everyone make calls; returns the logs of what they settle."""
        number = next(self._numbers)
        logs: list[Path] = []
        self.mates = [each if each.process.poll() is None else self._mate() for each in self.mates]
        for worker, mate in enumerate(self.mates):
            log = self._folder / f"{number}-{worker}.log"
            log.touch()
            logs.append(log)
            callers = job["callers"] if sizes is None else sizes[worker]
            mate.tell("spree", **{**job, "callers": callers, "worker": worker, "log": str(log)})
        return logs

    def spree(self, **job: Any) -> tuple[list[dict[str, Any]], Settled]:
        """Have everyone make calls, and wait until they are refused."""
        logs = self.start(**job)
        return [mate.hear() for mate in self.mates], settled_in(logs)

    def end(self) -> None:
        for mate in self.mates:
            mate.end()

    def _mate(self) -> Mate:
        return Mate(self._script)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for mate in self.mates:
            mate.process.kill()
            mate.end()


class Settled(NamedTuple):
    """What workers noted in their logs."""

    calls: int
    tokens: int
    nano: int
    unsure: tuple[tuple[int, int], ...]
    """Tokens and nano-dollars of each settlement that began, and of which no end is known."""

    def explains(self, turns: int, tokens: int, nano: int) -> bool:
        """Whether a ledger is what they settled, with or without each that is unsure."""
        rest = turns - self.calls
        sums = (
            (sum(each[0] for each in some), sum(each[1] for each in some))
            for some in itertools.combinations(self.unsure, rest)
            if rest >= 0
        )
        return any(each == (tokens - self.tokens, nano - self.nano) for each in sums)


def settled_in(logs: Iterable[Path]) -> Settled:
    """What is noted in these logs, each of one worker."""
    begun: dict[tuple[Path, str], tuple[int, int]] = {}
    calls = tokens = nano = 0
    for log in logs:
        for line in log.read_text().splitlines():
            mark, number, *amounts = line.split()
            amount = int(amounts[0]), int(amounts[1])
            if mark == "+":
                begun[log, number] = amount
            else:
                assert begun.pop((log, number)) == amount
                calls, tokens, nano = calls + 1, tokens + amount[0], nano + amount[1]
    return Settled(calls, tokens, nano, tuple(begun.values()))


def total(answers: Iterable[dict[str, Any]]) -> Counter[str]:
    """What all of them say together."""
    added: Counter[str] = Counter()
    for each in answers:
        added.update(each)
    return added
