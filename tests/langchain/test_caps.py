"""The output cap on the wire: what is used never exceeds what was held."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage

from budgetguard import Budget, BudgetExceeded, events
from budgetguard.testing import Reply
from budgetguard_langchain import BudgetCallbackHandler

LONG = Reply("word " * 3000, input_tokens=8)


def cap_of(body):
    return body.get("max_completion_tokens", body.get("max_tokens"))


def held_of(books):
    return [each.held_tokens for each in books.of(events.Admitted)]


def test_a_call_without_a_cap_is_capped_at_what_is_held(call, name, serve, chat, books):
    provider = serve(LONG)
    budget = Budget("task", output_tokens=500)
    call(chat(provider, name), "go", {"callbacks": [BudgetCallbackHandler(budget)]})
    assert cap_of(provider.bodies[0]) == 500
    assert provider.output_tokens == 500
    assert books.outcomes == ["completed"]
    books.agree_with(provider)


@pytest.mark.parametrize("limit", [{"tokens": 1000}, {"usd": "0.02"}, {"output_tokens": 900}])
def test_what_is_used_is_at_most_what_was_held(limit, call, serve, chat, books):
    provider = serve(LONG)
    budget = Budget("task", **limit)
    call(chat(provider), "go", {"callbacks": [BudgetCallbackHandler(budget)]})
    assert provider.tokens <= held_of(books)[0]
    assert [each.overshoot_tokens for each in books.of(events.Settled)] == [0]
    assert [each.truncated for each in books.of(events.Settled)] == [True]
    books.agree_with(provider)


def test_a_smaller_cap_of_the_callers_is_kept(name, serve, chat, books):
    provider = serve(LONG)
    model = chat(provider, name, max_tokens=20)
    model.invoke("go", {"callbacks": [BudgetCallbackHandler(Budget("task", output_tokens=500))]})
    assert cap_of(provider.bodies[0]) == 20
    assert provider.output_tokens == 20
    books.agree_with(provider)


def test_a_larger_cap_of_the_callers_is_lowered(name, serve, chat, books):
    provider = serve(LONG)
    model = chat(provider, name, max_tokens=2000)
    model.invoke("go", {"callbacks": [BudgetCallbackHandler(Budget("task", output_tokens=500))]})
    assert cap_of(provider.bodies[0]) == 500
    assert provider.requests == provider.calls == 1
    books.agree_with(provider)


@pytest.mark.parametrize("word", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(("asked", "sent"), [(20, 20), (2000, 500)])
@pytest.mark.parametrize("constructor", [None, 100, 3000])
def test_a_cap_given_with_the_call_is_obeyed_or_lowered(
    word, asked, sent, constructor, serve, chat, books
):
    provider = serve(LONG)
    model = chat(provider) if constructor is None else chat(provider, max_tokens=constructor)
    handlers = [BudgetCallbackHandler(Budget("task", output_tokens=500))]
    model.bind(**{word: asked}).invoke("go", {"callbacks": handlers})
    list(model.stream("go", {"callbacks": handlers}, **{word: asked}))
    assert [cap_of(body) for body in provider.bodies] == [sent, sent]
    assert provider.calls == 2
    books.agree_with(provider)


@pytest.mark.parametrize(("asked", "sent"), [(20, 20), (2000, 500)])
def test_a_cap_given_with_a_call_of_claude_is_obeyed_or_lowered(asked, sent, serve, chat, books):
    provider = serve(LONG)
    model = chat(provider, "claude-sonnet-4-5", max_tokens=300)
    handlers = [BudgetCallbackHandler(Budget("task", output_tokens=500))]
    model.bind(max_tokens=asked).invoke("go", {"callbacks": handlers})
    list(model.stream("go", {"callbacks": handlers}, max_tokens=asked))
    assert [cap_of(body) for body in provider.bodies] == [sent, sent]
    books.agree_with(provider)


@pytest.mark.parametrize("limit", [{"turns": 5}, {"seconds": 60}, {"input_tokens": 5000}, {}])
def test_no_cap_is_sent_where_no_limit_needs_one(limit, serve, chat, books):
    provider = serve("four")
    config = {"callbacks": [BudgetCallbackHandler(Budget("task", **limit))]}
    chat(provider).invoke("go", config)
    assert cap_of(provider.bodies[0]) is None
    books.agree_with(provider)


def test_claude_keeps_the_cap_its_client_sends_where_no_limit_needs_one(serve, chat, books):
    provider = serve("four")
    model = chat(provider, "claude-sonnet-4-5")
    model.invoke("go")
    model.invoke("go", {"callbacks": [BudgetCallbackHandler(Budget("task", turns=5))]})
    assert cap_of(provider.bodies[0]) == cap_of(provider.bodies[1])


@pytest.mark.parametrize("stream_usage", [None, True, False])
def test_a_stream_through_a_gateway_reports_its_usage(stream_usage, serve, chat, books):
    provider = serve("four")
    fields = {} if stream_usage is None else {"stream_usage": stream_usage}
    model = chat(provider, **fields)
    list(model.stream("go", {"callbacks": [BudgetCallbackHandler(Budget("task", turns=5))]}))
    assert provider.bodies[0]["stream_options"] == {"include_usage": True}
    assert [each.estimated for each in books.of(events.Settled)] == [False]
    assert model.stream_usage is stream_usage
    books.agree_with(provider)


def test_stream_usage_off_by_the_caller_with_the_call_is_counted_all_the_same(serve, chat, books):
    provider = serve("four")
    handlers = [BudgetCallbackHandler(Budget("task", tokens=5000))]
    list(chat(provider).stream("go", {"callbacks": handlers}, stream_usage=False))
    books.agree_with(provider)


def test_a_model_that_streams_by_itself_reports_its_usage(serve, chat, books):
    provider = serve("four")
    handlers = [BudgetCallbackHandler(Budget("task", tokens=5000))]
    chat(provider, streaming=True).invoke("go", {"callbacks": handlers})
    assert provider.bodies[0]["stream"] is True
    assert [each.estimated for each in books.of(events.Settled)] == [False]
    books.agree_with(provider)


def test_a_call_that_streams_although_invoked_reports_its_usage(serve, chat, books):
    provider = serve("four")
    handlers = [BudgetCallbackHandler(Budget("task", tokens=5000))]
    chat(provider).invoke("go", {"callbacks": handlers}, stream=True)
    assert provider.bodies[0]["stream"] is True
    assert [each.estimated for each in books.of(events.Settled)] == [False]
    books.agree_with(provider)


def test_several_completions_are_all_held_and_all_billed(serve, chat, books):
    provider = serve(LONG)
    handlers = [BudgetCallbackHandler(Budget("task", tokens=1000))]
    result = chat(provider, n=2).generate([[HumanMessage("go")]], callbacks=handlers)
    assert len(result.generations[0]) == 2
    assert provider.calls == 1
    assert provider.tokens <= 1000
    assert [each.overshoot_tokens for each in books.of(events.Settled)] == [0]
    books.agree_with(provider)


def test_several_completions_asked_with_the_call_are_all_held(serve, chat, books):
    provider = serve(LONG)
    handlers = [BudgetCallbackHandler(Budget("task", tokens=1000))]
    chat(provider).invoke("go", {"callbacks": handlers}, n=3)
    assert provider.bodies[0]["n"] == 3
    assert provider.tokens <= 1000
    books.agree_with(provider)


def test_a_cap_that_cannot_fit_32_tokens_is_refused(name, serve, chat):
    provider = serve("four")
    with pytest.raises(BudgetExceeded, match="output_tokens 0 of 31 used, 32 needed"):
        chat(provider, name).invoke(
            "go", {"callbacks": [BudgetCallbackHandler(Budget("task", output_tokens=31))]}
        )
    assert provider.requests == 0
