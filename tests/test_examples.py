"""The examples that nothing else runs, as a person runs them."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_four_worker_processes_share_one_budget() -> None:
    command = [sys.executable, str(EXAMPLES / "shared_budget.py")]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0, shown
    lines = shown.stdout.splitlines()
    assert sum(line.startswith("worker ") for line in lines) == 4, shown
    assert lines[-1].split()[:2] == ["-", "fleet"]
