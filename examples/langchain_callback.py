"""One line puts an agent that exists already under a budget.

Runs offline on a recorded conversation; with OPENAI_API_KEY set, the same agent talks to the real
API (gpt-4o, a few cents), and the budget is what keeps it at a few cents.
"""

from __future__ import annotations

import os

from airline_agent import airline_agent, converse

from budgetguard import Budget, Decided, Event, subscribe
from budgetguard.testing import LoopbackProvider, airline_runs, replay
from budgetguard_langchain import BudgetCallbackHandler

AIRLINE = Budget("airline", turns=12, usd="0.10")


def tell(event: Event) -> None:
    """Print every decision about a call."""
    if isinstance(event, Decided):
        print(f"    [{event.decision}, because of {event.reason}]")


def main() -> None:
    """Let one customer talk to the agent, and print what it cost."""
    runs = airline_runs()
    subscribe(tell)
    with LoopbackProvider(replay(runs)) as provider:
        real = "OPENAI_API_KEY" in os.environ
        client = {} if real else {"base_url": provider.openai_url, "api_key": "offline"}
        agent = airline_agent(**client)

        handler = BudgetCallbackHandler(AIRLINE, id=lambda run: run.thread_id)
        agent = agent.with_config(callbacks=[handler])  # the one line

        for said, answer in zip(
            runs[4].user_messages, converse(agent, runs[4], "customer-4"), strict=False
        ):
            print(f"customer: {said}\nagent:    {answer}")
    with AIRLINE.open(id="customer-4") as account:
        spent, left = account.spent, account.remaining
        print(f"\nspent {spent.turns} turns, {spent.tokens} tokens, ${spent.usd}; ${left.usd} left")


if __name__ == "__main__":
    main()
