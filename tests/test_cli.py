"""The command line, as a person runs it."""

import subprocess
import sys
from pathlib import Path

from budgetguard import Budget, Call, Price, Usage
from budgetguard.cli import main
from budgetguard.stores.link import close_links

PRICES = {"m": Price(input="1", output="10")}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "budgetguard.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_accounts_shows_what_is_spent_and_held_by_whom(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/accounts.db"
    acme = Budget("acme", tokens=10_000, usd="1", store=store, tenant="eu", prices=PRICES)
    call = Call(model="m", input_tokens=100, max_output_tokens=400)
    with acme.open(id="order-42") as first, acme.replace(tenant="us").open(id="order 43"):
        first.admit(call).settle(Usage(100, 150))
        held = first.admit(call)
        shown = run("accounts", store)
        held.release()
    close_links()
    assert shown.returncode == 0, shown.stderr
    header, *rows = (line.split() for line in shown.stdout.splitlines())
    assert header[:4] == ["tenant", "budget", "id", "window"]
    assert rows == [["eu", "acme", "order-42", "-", "1", "250", "0.0016", "500", "0.0041"]]


def test_accounts_of_one_tenant_leave_out_the_others(tmp_path: Path, capsys) -> None:
    store = f"sqlite:///{tmp_path}/accounts.db"
    for tenant in ("eu", "us"):
        with Budget("acme", turns=3, store=store, tenant=tenant).open(id="a") as task:
            task.admit(Call(input_tokens=1)).settle(Usage(1, 1))
    close_links()
    assert main(["accounts", store, "--tenant", "us"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["tenant", "us"]


def test_a_file_that_is_not_there_is_said_and_not_made(tmp_path: Path, capsys) -> None:
    assert main(["accounts", f"sqlite:///{tmp_path}/typo.db"]) == 1
    assert "there is no file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_store_out_of_reach_is_said_in_one_line(tmp_path: Path, capsys) -> None:
    assert main(["accounts", "redis://127.0.0.1:1/0?timeout=0.2"]) == 1
    assert main(["accounts", "postgres://host"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "out of reach" in lines[0]
    assert "store must begin with sqlite:///" in lines[1]
