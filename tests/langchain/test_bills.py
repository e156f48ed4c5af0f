"""Bills that are missing, wrong or absurd; cache hits; cached and hidden tokens."""

from __future__ import annotations

from decimal import Decimal

import pytest
from langchain_core.caches import InMemoryCache

from budgetguard import Budget, events
from budgetguard.testing import Fault, Reply
from budgetguard_langchain import BudgetCallbackHandler

BUDGET = Budget("task", tokens=50_000, turns=10, usd="1")
TALE = "Once upon a time there was a budget that held. " * 20

OPENAI = {
    "missing": None,
    "null": {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
    "negative": {"prompt_tokens": -50, "completion_tokens": -100, "total_tokens": -150},
    "text": {"prompt_tokens": "many", "completion_tokens": "more", "total_tokens": "all"},
    "absurd": {"prompt_tokens": 10**12, "completion_tokens": 10**12, "total_tokens": 2 * 10**12},
    "zero": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "fraction": {"prompt_tokens": 1.5, "completion_tokens": 2.5, "total_tokens": 4.0},
}
ANTHROPIC = {
    "missing": None,
    "null": {"input_tokens": None, "output_tokens": None},
    "negative": {"input_tokens": -50, "output_tokens": -100},
    "text": {"input_tokens": "many", "output_tokens": "more"},
    "absurd": {"input_tokens": 10**12, "output_tokens": 10**12},
    "zero": {"input_tokens": 0, "output_tokens": 0},
    "fraction": {"input_tokens": 1.5, "output_tokens": 2.5},
}


def handled(budget=BUDGET):
    return {"callbacks": [BudgetCallbackHandler(budget)]}


@pytest.mark.parametrize("kind", list(OPENAI))
@pytest.mark.parametrize("form", ["invoke", "stream"])
def test_a_bill_that_is_not_credible_is_estimated(kind, form, name, serve, chat, books):
    usage = (ANTHROPIC if name.startswith("claude") else OPENAI)[kind]
    provider = serve(Reply(TALE, usage=usage))
    if usage is None:
        provider.inject(Fault(no_usage=True))
    try:
        model, question = chat(provider, name), "Tell me a tale, please."
        if form == "stream":
            list(model.stream(question, handled()))
        else:
            model.invoke(question, handled())
    except Exception as error:  # the client, or LangChain, may refuse such a bill itself
        assert kind in {"null", "text", "fraction", "negative", "missing"}, repr(error)
    (settled,), (admitted,) = books.of(events.Settled), books.of(events.Admitted)
    assert settled.estimated
    assert settled.overshoot_tokens == 0
    assert settled.input_tokens >= provider.input_tokens
    assert settled.output_tokens >= provider.output_tokens
    assert settled.input_tokens + settled.output_tokens <= admitted.held_tokens
    assert [each.turns for each in books.tasks] == [1]


def test_an_estimate_teaches_nothing_about_bills(serve, chat, agree):
    provider = serve(Reply(TALE, usage=OPENAI["absurd"]))
    model = chat(provider)
    with BUDGET.open() as task:
        BudgetCallbackHandler()
        model.invoke("word " * 200)
        model.invoke("word " * 200)
    assert task.spent.input_tokens < 4 * provider.input_tokens


def test_a_bill_above_the_hold_is_settled_truthfully_and_shown(serve, chat, agree):
    provider = serve(Reply("four", input_tokens=5_000, output_tokens=10))
    with Budget("task", tokens=1_000).open() as task:
        BudgetCallbackHandler()
        chat(provider).invoke("2+2")
        agree(task, provider)
    assert task.spent.tokens == 5_010
    assert task.overshoot.tokens > 3_000


def test_reasoning_and_cached_tokens_are_billed_exactly(call, serve, chat, books):
    provider = serve(Reply("four", reasoning_tokens=700, input_tokens=2000, cached_tokens=1500))
    call(chat(provider, "gpt-5"), "word " * 2000, handled())
    (settled,) = books.of(events.Settled)
    assert settled.reasoning_tokens == 700
    assert settled.cache_read_tokens == 1500
    assert settled.output_tokens == provider.output_tokens
    sent = Decimal("1.25") * 500 + Decimal("0.125") * 1500
    assert settled.usd == (sent + Decimal(10) * provider.output_tokens) / 1_000_000


def test_cache_writes_of_claude_are_billed_exactly(call, serve, chat, books):
    reply = Reply("four", input_tokens=2000, cached_tokens=1000, cache_write_tokens=600)
    provider = serve(reply)
    call(chat(provider, "claude-sonnet-4-5"), "word " * 2000, handled())
    (settled,) = books.of(events.Settled)
    assert (settled.input_tokens, settled.cache_read_tokens) == (2000, 1000)
    assert settled.cache_write_tokens == 600
    sent = 3 * 400 + Decimal("0.3") * 1000 + Decimal("3.75") * 600
    assert settled.usd == (sent + Decimal(15) * provider.output_tokens) / 1_000_000


def test_an_answer_of_langchains_cache_costs_nothing(name, serve, chat, agree):
    provider = serve("four")
    model = chat(provider, name, cache=InMemoryCache())
    budget = Budget("task", turns=5, tokens=20_000, usd="1")
    with budget.open() as task:
        for _ in range(3):
            model.invoke("2+2", handled(budget))
        model.batch(["2+2", "2+2"], handled(budget))
        agree(task, provider)
        assert provider.calls == 1
        list(model.stream("2+2", handled(budget)))  # LangChain's streams do not use the cache
        agree(task, provider)
    assert provider.calls == 2
    assert task.outcome == "completed"


@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
async def test_a_cache_hit_gives_its_turn_back(form, name, serve, chat, agree, books):
    provider = serve("four")
    model = chat(provider, name, cache=InMemoryCache())
    with Budget("task", turns=1, tokens=20_000, usd="1").open() as task:
        BudgetCallbackHandler()
        for _ in range(1):
            await model.ainvoke("2+2") if form == "ainvoke" else model.invoke("2+2")
        agree(task, provider)
    with Budget("again", turns=1, tokens=20_000, usd="1").open() as task:
        for _ in range(3):
            await model.ainvoke("2+2") if form == "ainvoke" else model.invoke("2+2")
    assert provider.calls == 1
    assert task.spent.turns == 0
    assert task.spent.tokens == 0
    assert task.held.turns == 0
    assert len(books.of(events.Released)) == 3


def test_an_unpriced_model_is_refused_before_it_is_called(call, serve, chat):
    from budgetguard import UnpricedModelError

    provider = serve("four")
    with pytest.raises(UnpricedModelError, match="no price is known for model 'my-own-model'"):
        call(chat(provider, "my-own-model"), "2+2", handled())
    assert provider.requests == 0
