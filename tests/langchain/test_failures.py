"""What a failed call cost, where the error alone misleads."""

from __future__ import annotations

import anthropic
import httpx
import openai
import pytest

from budgetguard import Budget, Usage
from budgetguard_langchain.failures import bill_of, is_error_answer, was_never_sent


def test_an_argument_the_client_refuses_costs_nothing(serve, chat, name):
    provider = serve("hi")
    with Budget("b", turns=5, tokens=10_000).open() as task:
        with pytest.raises(TypeError, match="no_such_argument"):
            chat(provider, name).invoke("hi", no_such_argument=1)
    assert (task.counts.released, task.spent.turns, provider.requests) == (1, 0, 0)


def test_a_timeout_is_charged_although_an_older_error_was_never_sent(serve, chat, name):
    provider, dead = serve("hi"), serve("hi")
    dead.close()
    slow = chat(provider, name, timeout=0.1)
    with Budget("b", tokens=50_000).open() as task, provider.hold():
        try:
            chat(dead, name).invoke("hi")
        except Exception:
            with pytest.raises(Exception, match=r"(?i)timed out|timeout"):
                slow.invoke("hi")
    assert (task.counts.released, task.counts.settled) == (1, 1)
    assert task.spent.tokens > 0


def test_an_error_inside_a_stream_that_began_is_no_error_answer():
    request = httpx.Request("POST", "http://127.0.0.1")
    cut = anthropic.APIStatusError(
        "Overloaded", response=httpx.Response(200, request=request), body=None
    )
    refused = openai.RateLimitError.__new__(openai.RateLimitError)
    refused.status_code = 429
    assert not is_error_answer(cut)
    assert is_error_answer(refused)


def test_a_cut_structured_answer_carries_its_bill():
    class Completion:
        class usage:  # noqa: N801
            prompt_tokens, completion_tokens, completion_tokens_details = 1_000, 40, None

    error = openai.LengthFinishReasonError.__new__(openai.LengthFinishReasonError)
    error.completion = Completion()
    assert bill_of(error) == Usage(1_000, 40, truncated=True)
    assert bill_of(ValueError("no bill")) is None


def test_only_the_cause_of_an_error_tells_that_nothing_was_sent():
    unreachable = type("ConnectError", (Exception,), {})()
    caused = RuntimeError("caused")
    caused.__cause__ = unreachable
    after = RuntimeError("after")
    after.__context__ = unreachable
    assert was_never_sent(caused)
    assert not was_never_sent(after)
