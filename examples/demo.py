"""`make demo`: an existing agent on twenty recorded conversations, unguarded and under a budget.

Everything is real but the model: a real `create_agent` agent, a real `ChatOpenAI` client and a real
HTTP server on this machine, which says what gpt-4o said when the conversations were recorded.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airline_agent import EXECUTED, airline_agent, converse, is_solved
from langchain_openai import ChatOpenAI
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from budgetguard import (
    DEFAULT_POLICY,
    Budget,
    BudgetExceeded,
    Decided,
    Difficulty,
    Event,
    Settled,
    Task,
    log_to,
    subscribe,
)
from budgetguard.pricing import rates
from budgetguard.testing import LoopbackProvider, Reply, airline_runs, replay
from budgetguard_langchain import BudgetCallbackHandler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from budgetguard.testing import RecordedRun, Request

AIRLINE = Budget("airline", turns=18, usd="0.20")
"""18 turns: 95 % of the 84 successful runs among all 200 that tau-bench recorded (commit 59a200c)
needed no more. $0.20: a third above what a run of all 200 cost in the mean."""

MODEL = "gpt-4o"
console = Console()


@dataclass
class Account:
    """What one conversation used."""

    run: RecordedRun
    turns: int = 0
    tokens: int = 0
    usd: Decimal = Decimal(0)
    ended: str = ""
    solved: bool = False


@dataclass
class Ledger:
    """What budgetguard says was used, from its events."""

    accounts: dict[str, Account] = field(default_factory=dict[str, Account])

    def note(self, event: Event) -> None:
        """Add a charge, or remember why a conversation was cut short."""
        account = self.accounts.get(event.scope_id)
        if account is None:
            return
        if isinstance(event, Settled):
            account.turns += 1
            account.tokens += event.input_tokens + event.output_tokens
            account.usd += event.usd
        elif isinstance(event, Decided) and event.decision in ("finish", "stop", "refuse"):
            account.ended = account.ended or f"{event.decision}: {event.reason}"


def bars(title: str) -> Progress:
    """A live bar for each task."""
    console.rule(title)
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:>2.0f} turns"),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def unguarded(provider: LoopbackProvider) -> list[Account]:
    """Run every conversation without a budget; the provider counts."""
    agent = airline_agent(base_url=provider.openai_url, api_key="offline")
    accounts = [Account(run) for run in airline_runs()]
    price = rates(MODEL, "openai")
    assert price is not None
    with bars("1. The agent as it is") as progress:
        for number, account in enumerate(accounts):
            bar = progress.add_task(name_of(account.run), total=30, note="")
            calls, sent, received = provider.calls, provider.input_tokens, provider.output_tokens
            for _ in converse(agent, account.run, f"unguarded-{number}"):
                progress.update(bar, completed=provider.calls - calls)
            account.turns = provider.calls - calls
            sent, received = provider.input_tokens - sent, provider.output_tokens - received
            account.tokens = sent + received
            account.usd = Decimal(price.charge(input_tokens=sent, output_tokens=received)) / 10**9
            account.solved = is_solved(account.run)
            progress.update(bar, note=f"${account.usd:.3f}")
    return accounts


def guarded(provider: LoopbackProvider) -> list[Account]:
    """Run every conversation under a budget: the same agent and one line."""
    agent = airline_agent(base_url=provider.openai_url, api_key="offline")
    agent = agent.with_config(
        callbacks=[BudgetCallbackHandler(AIRLINE, id=lambda run: run.thread_id)]
    )
    runs = airline_runs()
    ledger = Ledger({f"customer-{number}": Account(run) for number, run in enumerate(runs)})
    unsubscribe = subscribe(ledger.note)
    with bars(
        f"2. The same agent, and one line: turns={AIRLINE.turns}, usd={AIRLINE.usd}"
    ) as progress:
        for thread, account in ledger.accounts.items():
            bar = progress.add_task(name_of(account.run), total=AIRLINE.turns, note="")
            try:
                for _ in converse(agent, account.run, thread):
                    progress.update(bar, completed=account.turns, note=f"${account.usd:.3f}")
                    if account.ended:
                        break
            except BudgetExceeded as refusal:
                account.ended = f"refuse: {refusal.meter}"
            account.solved = is_solved(account.run)
            note = f"${account.usd:.3f} {account.ended}"
            progress.update(bar, completed=account.turns, note=note)
    unsubscribe()
    return list(ledger.accounts.values())


def name_of(run: RecordedRun) -> str:
    """What the bars and tables call a conversation."""
    return f"task {run.task_id}.{run.trial}"


def compare(before: list[Account], after: list[Account]) -> None:
    """The two passes side by side, and why conversations were cut short."""
    table = Table("", "unguarded", "under the budget", "saved", title="All 20 conversations")
    for name, of in (
        ("tasks solved", lambda a: a.solved),
        ("turns", lambda a: a.turns),
        ("tokens", lambda a: a.tokens),
        ("usd", lambda a: a.usd),
    ):
        old, new = sum(map(of, before)), sum(map(of, after))
        saved = "" if name == "tasks solved" else f"{(1 - float(new) / float(old)):.0%}"
        shown = [f"{each:.4f}" if name == "usd" else f"{each:,}" for each in (old, new)]
        table.add_row(name, *shown, saved)
    solved = [
        sum(each.usd for each in some) / sum(each.solved for each in some)
        for some in (before, after)
    ]
    table.add_row("usd per solved task", *(f"{each:.4f}" for each in solved), "")
    console.print(table)
    cut = Table(
        "conversation", "recorded turns", "turns", "usd", "ended by", "solved when recorded"
    )
    for each in after:
        if each.ended:
            cut.add_row(
                name_of(each.run), str(each.run.turns), str(each.turns), f"{each.usd:.4f}",
                each.ended, "yes" if each.run.reward == 1 else "no",
            )  # fmt: skip
    console.print(cut)


def reconcile(
    provider: LoopbackProvider, accounts: Iterable[Account], calls: int, tokens: int
) -> None:
    """Compare the ledger with the provider's own count since it stood at `calls` and `tokens`."""
    turns, used = 0, 0
    for each in accounts:
        turns, used = turns + each.turns, used + each.tokens
    same = (turns, used) == (provider.calls - calls, provider.tokens - tokens)
    console.print(
        f"[bold]ledger {'=' if same else '!='} provider: {turns} calls, {used:,} tokens[/bold]\n"
    )
    if not same:
        raise SystemExit(1)


def thinking(request: Request) -> Reply:
    """A scripted reasoning model, which thinks by the effort it is asked for."""
    effort = request.body.get("reasoning_effort", "medium")
    tokens = {"minimal": 64, "low": 200, "medium": 1_500, "high": 6_000}[effort]
    return Reply("42.", reasoning_tokens=tokens)


def efforts() -> None:
    """gpt-4o has no effort to set; show on a scripted gpt-5 how effort follows difficulty."""
    console.rule("3. Effort (gpt-4o has none to set, so: a scripted gpt-5)")

    def difficulty(task: Task) -> Difficulty:
        return Difficulty(0.9 if "prove" in (task.prompt or "").lower() else 0.1)

    budget = Budget("homework", usd="0.50", policy=DEFAULT_POLICY, estimator=difficulty)
    table = Table("prompt", "effort on the wire", "thinking tokens", "usd")
    with LoopbackProvider(thinking) as provider:
        model = ChatOpenAI(
            model="gpt-5", base_url=provider.openai_url, api_key="offline", max_retries=0
        )
        for prompt in (
            "What is 17 + 25?",
            "Prove that there are infinitely many primes of the form 4k + 3.",
        ):
            charges: list[Any] = []
            unsubscribe = subscribe(charges.append)
            answer = model.invoke(prompt, {"callbacks": [BudgetCallbackHandler(budget)]})
            unsubscribe()
            usd = sum(each.usd for each in charges if isinstance(each, Settled))
            effort = provider.bodies[-1].get(
                "reasoning_effort", "none sent: the model's own medium"
            )
            details: Any = (answer.usage_metadata or {}).get("output_token_details")
            table.add_row(prompt, effort, str(details["reasoning"]), f"{usd:.5f}")
    console.print(table)


def main() -> None:
    """The whole demo; it needs no network and takes a few seconds."""
    log = Path(tempfile.mkdtemp(prefix="budgetguard-")) / "decisions.jsonl"
    close = log_to(log)
    with LoopbackProvider(replay(airline_runs())) as provider:
        before = unguarded(provider)
        EXECUTED.clear()
        calls, tokens = provider.calls, provider.tokens
        after = guarded(provider)
        compare(before, after)
        reconcile(provider, after, calls, tokens)
    efforts()
    close()
    console.print(f"every decision, as JSON Lines: {log}", soft_wrap=True)


if __name__ == "__main__":
    main()
