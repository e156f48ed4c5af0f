"""What `import budgetguard` costs: fresh interpreters, wall time from start to exit."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from measure import goal, samples, show

if TYPE_CHECKING:
    from measure import Batch

LIGHT_ROUNDS, HEAVY_ROUNDS = 40, 8

LIGHT = {"bare interpreter": "pass", "import budgetguard": "import budgetguard"}
HEAVY = {
    "bare interpreter": "pass",
    "budgetguard, first price looked up": (
        "from budgetguard.pricing import rates; rates('gpt-4o', 'openai')"
    ),
    "langchain_core's chat models": "import langchain_core.language_models.chat_models",
    "budgetguard_langchain": "import budgetguard_langchain",
}

UNWANTED = frozenset({
    "anthropic", "genai_prices", "httpx", "httpx2", "langchain", "langchain_core", "langgraph",
    "llama_index", "numpy", "openai", "opentelemetry", "pydantic", "tenacity", "tiktoken",
})  # fmt: skip


def start(code: str) -> Batch:
    """An interpreter that runs `code` and exits."""

    def run() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-c", code], check=True)
        return (time.perf_counter() - begin) * 1e6

    return run


def modules(code: str) -> set[str]:
    """What is in `sys.modules` after `code`."""
    report = f"{code}\nimport sys; names = list(sys.modules)\nimport json; print(json.dumps(names))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", report], check=True, capture_output=True, text=True
    )
    return set(json.loads(done.stdout))


def compare(programs: dict[str, str], rounds: int) -> dict[str, float]:
    """Print a table of import times; return the medians above the bare interpreter, in ms."""
    taken = samples({label: start(code) for label, code in programs.items()}, rounds)
    ms = {label: [each / 1000 for each in run] for label, run in taken.items()}
    bare_min, bare_median = (of(ms["bare interpreter"]) for of in (min, statistics.median))
    bare_modules = modules("pass")
    rows = [
        (
            label,
            min(run),
            statistics.median(run),
            min(run) - bare_min,
            statistics.median(run) - bare_median,
            len(modules(programs[label]) - bare_modules),
        )
        for label, run in ms.items()
    ]
    header = ("ms", "min", "median", "min added", "median added", "modules added")
    show(f"fresh interpreters, {rounds} interleaved rounds", header, rows)
    return {label: added for label, _, _, _, added, _ in rows}


def main() -> None:
    added = compare(LIGHT, LIGHT_ROUNDS)["import budgetguard"]
    goal("import budgetguard over a bare interpreter", added, 150, "ms")
    loaded = {name.partition(".")[0] for name in modules("import budgetguard")}
    print(
        f"  frameworks, SDKs, price data loaded: {', '.join(sorted(loaded & UNWANTED)) or 'none'}"
    )
    compare(HEAVY, HEAVY_ROUNDS)


if __name__ == "__main__":
    main()
