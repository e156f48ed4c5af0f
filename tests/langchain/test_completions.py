"""Completion models: counted and refused, not steered."""

from __future__ import annotations

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.language_models.llms import LLM
from langchain_core.runnables import RunnableLambda

from budgetguard import Budget, BudgetBusy, BudgetExceeded, Call, Usage, events
from budgetguard_langchain import BudgetCallbackHandler


class Parrot(LLM):
    """A completion model of the old kind."""

    asked: list[str]

    @property
    def _llm_type(self) -> str:
        return "parrot"

    def _call(self, prompt, stop=None, run_manager=None, **kwargs) -> str:
        self.asked.append(prompt)
        if prompt == "fail":
            raise ValueError(prompt)
        return "polly wants a cracker"


@pytest.fixture
def parrot() -> Parrot:
    return Parrot(asked=[])


def test_every_call_is_counted_and_the_one_too_many_refused(parrot, books):
    chain = RunnableLambda(lambda text: [parrot.invoke(text) for _ in range(3)])
    with pytest.raises(BudgetExceeded):
        chain.invoke("hello", {"callbacks": [BudgetCallbackHandler(Budget("b", turns=2))]})
    assert len(parrot.asked) == 2
    assert [each.estimated for each in books.of(events.Settled)] == [True, True]
    assert books.outcomes == ["refused"]


async def test_a_call_by_itself_is_a_task(parrot, books):
    handler = BudgetCallbackHandler(Budget("b", tokens=10_000))
    await parrot.ainvoke("hello", {"callbacks": [handler, BudgetCallbackHandler()]})
    (settled,) = books.of(events.Settled)
    assert settled.output_tokens >= 4
    assert books.outcomes == ["completed"]


def test_a_batch_is_admitted_prompt_by_prompt_in_an_open_scope(parrot):
    with Budget("b", turns=5).open() as task:
        parrot.generate(["one", "two"], callbacks=[BudgetCallbackHandler()])
        with pytest.raises(ValueError, match="fail"):
            parrot.invoke("fail")
    assert task.spent.turns == 3
    assert task.counts.in_flight == 0


def test_a_call_that_would_have_to_wait_is_refused_at_once(parrot):
    with Budget("b", tokens=200).open() as task:
        ticket = task.admit(Call(input_tokens=100, max_output_tokens=100))
        with pytest.raises(BudgetBusy, match="cannot wait"):
            parrot.invoke("hello", {"callbacks": [BudgetCallbackHandler()]})
        ticket.settle(Usage(1, 1))
    assert parrot.asked == []


def test_a_chat_model_that_escapes_its_own_budget_is_noticed(books, caplog):
    class Escaping(GenericFakeChatModel):
        def generate(self, messages, stop=None, callbacks=None, **kwargs):
            return generate_of_langchain(self, messages, stop, callbacks, **kwargs)

    generate_of_langchain = GenericFakeChatModel.generate.__wrapped__
    model = Escaping(messages=iter(["hi"]))
    model.invoke("hi", {"callbacks": [BudgetCallbackHandler(Budget("b", turns=1))]})
    assert [each.what.split()[0] for each in books.of(events.Unmetered)] == ["Escaping"]
    assert "Escaping" in caplog.text
