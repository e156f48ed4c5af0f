"""Real agents under budgets in shared stores: the store's ledger is the provider's own count."""

from __future__ import annotations

import secrets
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.errors import GraphBubbleUp

from budgetguard import Budget, BudgetExceeded, current_scope, fail, spent, when
from budgetguard.errors import StoreUnavailableError
from budgetguard.stores.link import close_links, link_to
from budgetguard.testing import Reply, Request, ToolCall
from budgetguard_langchain import BudgetCallbackHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from budgetguard.stores.protocol import Balance

SEARCHING = Reply("The best I can say.", (ToolCall("search", {"query": "budget"}),))
GO = {"messages": [("user", "go")]}
FAIL = when(spent(1.0), fail())


def find(request: Request) -> Reply:
    """A tool call, and then the answer."""
    known = any(message.get("role") == "tool" for message in request.messages)
    return Reply("Found.") if known else SEARCHING


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Each shared store."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'fleet.db'}"
    else:
        url = request.getfixturevalue("redis_url")
    yield url
    close_links()


@pytest.fixture
def acme(store: str) -> Callable[..., Budget]:
    """Make a Budget in that store, in a partition that no other test uses."""
    tenant = secrets.token_hex(4)

    def make(**fields: Any) -> Budget:
        return Budget("acme", **{"turns": 20, "usd": "1", **fields}, store=store, tenant=tenant)

    return make


def ledger(budget: Budget) -> list[Balance]:
    """What a worker that has only just come finds in the store."""
    close_links()
    assert budget.store is not None
    return link_to(budget.store).store.accounts(budget.tenant)


def agrees(budget: Budget, *providers: Any, accounts: int = 1) -> None:
    """The store's ledger is what the providers counted, and nothing is held."""
    found = ledger(budget)
    assert len(found) == accounts
    tokens, sent, received, _, turns, _ = (
        sum(each) for each in zip(*(b.settled for b in found), strict=True)
    )
    assert turns == sum(each.requests for each in providers)
    assert sent == sum(each.input_tokens for each in providers)
    assert received == sum(each.output_tokens for each in providers)
    assert tokens == sent + received
    assert not any(any((*b.held, *b.reserved, *b.overshoot)) for b in found)


def test_the_ledger_in_the_store_is_the_count_of_the_provider(call, acme, serve, chat, lookup):
    provider, budget = serve(find), acme()
    agent = create_agent(chat(provider), [lookup])
    call(agent, GO, {"callbacks": [BudgetCallbackHandler(budget)]})
    assert provider.requests == 2
    agrees(budget, provider)


def test_the_last_turn_of_an_agent_is_an_answer_with_a_store_too(call, acme, serve, chat, lookup):
    provider, budget = serve(SEARCHING), acme(turns=3)
    agent = create_agent(chat(provider), [lookup])
    call(agent, GO, {"callbacks": [BudgetCallbackHandler(budget)]})
    off = [each.request.tools_off for each in provider.log]
    assert off == [False, False, True]
    agrees(budget, provider)


def test_a_refusal_arrives_in_every_form(call, acme, serve, chat, lookup):
    provider, budget = serve(SEARCHING), acme(turns=2, policy=FAIL)
    agent = create_agent(chat(provider), [lookup])
    with pytest.raises(BudgetExceeded, match="turns 2 of 2 used") as caught:
        call(agent, GO, {"callbacks": [BudgetCallbackHandler(budget)]})
    assert isinstance(caught.value, GraphBubbleUp)
    agrees(budget, provider)


def test_the_runs_of_a_thread_are_one_account_also_of_another_worker(acme, serve, chat, lookup):
    provider, budget = serve(find), acme(turns=4, policy=FAIL)
    agent = create_agent(chat(provider), [lookup])

    def run(thread: str) -> None:
        handler = BudgetCallbackHandler(budget, id=lambda run: run.thread_id)
        agent.invoke(GO, {"callbacks": [handler], "configurable": {"thread_id": thread}})

    run("one")
    close_links()
    run("one")
    with pytest.raises(BudgetExceeded, match="turns 4 of 4 used"):
        run("one")
    run("two")
    assert sorted(each.address.id for each in ledger(budget)) == ["one", "two"]
    agrees(budget, provider, accounts=2)


def test_many_agents_at_once_share_one_account(acme, serve, chat, lookup):
    provider, budget = serve(SEARCHING), acme(turns=12, window="month")
    agent = create_agent(chat(provider), [lookup])

    def run(_: int) -> str:
        handler = BudgetCallbackHandler(budget)
        return agent.invoke(GO, {"callbacks": [handler]})["messages"][-1].text

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(run, range(3)))
    assert answers == ["The best I can say."] * 3
    assert provider.requests == 12
    agrees(budget, provider)


@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
async def test_a_tool_of_an_agent_cannot_extend_its_budget(form, acme, serve, chat):
    said: list[BaseException] = []

    @tool
    def search(query: str) -> str:
        """Look something up."""
        try:
            current_scope().extend(turns=100)
        except BaseException as error:
            said.append(error)
        return "nothing"

    provider, budget = serve(SEARCHING), acme(turns=2)
    agent = create_agent(chat(provider), [search])
    config = {"callbacks": [BudgetCallbackHandler(budget)]}
    agent.invoke(GO, config) if form == "invoke" else await agent.ainvoke(GO, config)
    assert [type(each) for each in said] == [PermissionError]
    assert provider.requests == 2
    agrees(budget, provider)


@pytest.mark.parametrize("form", ["stream", "astream"])
async def test_a_stream_that_is_dropped_half_way_leaves_nothing_held(form, acme, serve, chat):
    provider, budget = serve(Reply("one two three four five six")), acme()
    model = chat(provider)
    config = {"callbacks": [BudgetCallbackHandler(budget)]}
    if form == "stream":
        chunks = model.stream("go", config)
        next(chunks)
        chunks.close()
    else:
        pieces = model.astream("go", config)
        await anext(pieces)
        await pieces.aclose()
    (balance,) = ledger(budget)
    assert balance.settled[4] == 1
    assert not any((*balance.held, *balance.reserved))


def test_an_agent_whose_store_is_out_of_reach_makes_no_call(serve, chat, lookup, tmp_path):
    (tmp_path / "other.db").touch()
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    provider = serve(SEARCHING)
    budget = Budget("acme", turns=5, store=f"sqlite:///{tmp_path / 'other.db'}")
    agent = create_agent(chat(provider), [lookup])
    with pytest.raises(StoreUnavailableError):
        agent.invoke(GO, {"callbacks": [BudgetCallbackHandler(budget)]})
    assert provider.requests == 0
    close_links()
