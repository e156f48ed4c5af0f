"""What was learned of answers outlives its worker, where a store keeps the account."""

import json

import pytest

from budgetguard import Budget, Call, Price, Usage
from budgetguard.forecast import FORECAST
from budgetguard.stores import open_store
from budgetguard.stores.link import close_links
from budgetguard.stores.memory import STORE

PRICES = {"m": Price(input="1", output="10")}
CALL = Call(model="m", input_tokens=10)


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/learned.db"
    return request.getfixturevalue("redis_url")


def held_for_one(budget: Budget) -> int:
    with budget.open() as task:
        ticket = task.admit(CALL)
        ticket.release()
        return ticket.need[2]


def teach(budget: Budget, output: int) -> None:
    with budget.open() as task:
        for _ in range(40):
            task.admit(CALL).settle(Usage(10, output))


def restart() -> None:
    """What another worker begins with: nothing learned, no connection."""
    close_links()
    with STORE.lock:
        FORECAST.forget()


def test_a_new_worker_holds_what_others_have_learned(url: str) -> None:
    budget = Budget("learned", usd="50", window="month", store=url, prices=PRICES)
    assert held_for_one(budget) == 4_096
    teach(budget, 400)
    learned = held_for_one(budget)
    assert learned < 1_000
    restart()
    assert held_for_one(budget) == pytest.approx(learned, rel=0.2)
    close_links()


def test_a_store_is_not_told_of_budgets_it_does_not_keep(url: str) -> None:
    teach(Budget("elsewhere", usd="50", prices=PRICES), 300)
    teach(Budget("here", usd="50", window="month", store=url, prices=PRICES), 300)
    restart()
    store = open_store(url)
    kept = json.loads(store.load("forecast") or b"")
    store.close()
    assert "elsewhere" not in {each[0] for each in kept["outputs"]}
    assert "here" in {each[0] for each in kept["outputs"]}


def test_what_cannot_be_read_is_ignored(url: str) -> None:
    store = open_store(url)
    store.save({"forecast": b"\x00 not JSON"})
    budget = Budget("ignored", usd="50", window="month", store=url, prices=PRICES)
    assert held_for_one(budget) == 4_096
    store.save({"forecast": b""})
    store.close()
    close_links()
