"""User code as the type checkers must accept it: pyright strict and mypy strict."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from budgetguard import (
    Budget,
    BudgetExceeded,
    Call,
    Difficulty,
    Event,
    Plan,
    Price,
    Scope,
    State,
    StoreUnavailableError,
    Task,
    Usage,
    downgrade,
    easier_than,
    effort,
    fail,
    finish,
    harder_than,
    log_to,
    observe,
    spent,
    stop,
    subscribe,
    when,
)
from budgetguard_langchain import BudgetCallbackHandler, RunInfo, attach

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.runnables import Runnable


def late(state: State) -> bool | None:
    return state.turn > 5


def strict(state: State) -> Plan:
    return Plan(max_output_tokens=100, effort="low" if state.stakes == "low" else None)


def judge(task: Task) -> Difficulty:
    return Difficulty(0.5, 0.2 if task.prompt else 0.0)


policy = (
    when(easier_than(0.3), effort("low"))
    + when(spent(0.5) & ~harder_than(0.8) | late, effort("medium"), strict)
    + when(spent(0.8, of="usd"), downgrade())
    + when(spent(0.95), finish())
    + when(spent(1.0), fail())
)
TRIAGE = Budget(
    "triage",
    tokens=40_000,
    turns=12,
    usd="0.25",
    policy=policy,
    ladder=["gpt-5-mini"],
    estimator=judge,
    prices={"mine": Price(input="1", output=2), "other": {"input": 1, "output": 2.5}},
)
SHADOW: Budget = TRIAGE.replace(policy=observe(stop()), usd=Decimal("0.5"))


FLEET: Budget = Budget(
    "fleet",
    usd="50",
    window="day",
    tenant="eu",
    store="sqlite:///fleet.db",
    on_store_failure="local",
    share=0.2,
)


def choose(run: RunInfo) -> Budget | None:
    return TRIAGE if run.metadata.get("workflow") == "triage" else None


def adopt(agent: Runnable[str, str], model: BaseChatModel) -> tuple[Runnable[str, str], object]:
    handler = BudgetCallbackHandler(choose, id=lambda run: run.thread_id)
    return attach(agent, TRIAGE).with_config(callbacks=[handler]), attach(model, SHADOW)


def by_hand() -> Decimal:
    with TRIAGE.open(id="order-42", prompt="Where is it?") as task:
        try:
            ticket = task.admit(Call("gpt-5", "openai", input_tokens=100))
        except BudgetExceeded as error:
            print(error.meter, error.used, error.limit)
        else:
            ticket.settle(Usage(100, 10))
    return task.spent.usd


async def by_hand_async(scope: Scope) -> int:
    async with SHADOW.open(shield=True) as inner:
        ticket = await inner.aadmit(Call("gpt-5"))
        ticket.release()
    return scope.remaining.turns or 0


async def shared() -> Decimal | None:
    async with FLEET.open(id="order-42") as task:
        try:
            ticket = await task.aadmit(Call("gpt-5"))
            ticket.settle(Usage(100, 10))
            await ticket.delivered()
        except StoreUnavailableError as error:
            print(error.store, error.why)
        await task.aextend(usd="5")
        await task.arefresh()
    return task.limits.usd


def tell(event: Event) -> None:
    print(event.path, event.at)


unsubscribe = subscribe(tell)
close = log_to("decisions.jsonl")
