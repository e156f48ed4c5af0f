"""`import budgetguard` is light, and everything public is there."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import budgetguard

ROOT = Path(__file__).parent.parent
HEAVY = (
    "anthropic", "genai_prices", "httpx", "langchain", "langchain_core", "langgraph", "llama_index",
    "numpy", "openai", "opentelemetry", "pydantic", "redis", "requests", "tenacity", "tiktoken",
)  # fmt: skip


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.strip()


def test_import_loads_no_framework_no_client_no_price_library_and_opens_no_socket() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a socket')\n"
        "socket.socket.__init__ = refuse\n"
        "import budgetguard, budgetguard.testing\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize("package", ["budgetguard", "budgetguard.testing", "budgetguard_langchain"])
def test_all_is_sorted_and_everything_in_it_exists(package: str) -> None:
    module = __import__(package, fromlist=["__all__"])
    assert [getattr(module, name) is not None for name in module.__all__]
    classes = [name for name in module.__all__ if name[0].isupper()]
    assert classes == sorted(classes, key=lambda name: (not name.isupper(), name))


def test_the_version_is_the_distribution_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == "agent-budgetguard"
    assert "version" in project["dynamic"]
    assert budgetguard.__version__ == "0.1.0"
