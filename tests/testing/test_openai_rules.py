"""What OpenAI Chat Completions refuses, in its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from budgetguard.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.fixture(scope="module")
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider("Hello.") as provider:
        yield provider


@pytest.fixture
def ask_openai(provider, post):
    def ask(**body: Any) -> Any:
        whole = {"model": "gpt-4o", "messages": [USER]} | body
        return post(f"{provider.openai_url}/chat/completions", whole)

    return ask


OPENAI_REFUSES = {
    "an effort for a model that has none": (
        {"reasoning_effort": "low"},
        "Unrecognized request argument supplied: reasoning_effort",
        None,
        None,
    ),
    "an effort the family does not list": (
        {"model": "gpt-5.1-2025-11-13", "reasoning_effort": "minimal"},
        (
            "Unsupported value: 'reasoning_effort' does not support 'minimal' with this model. "
            "Supported values are: 'none', 'low', 'medium', and 'high'."
        ),
        "reasoning_effort",
        "unsupported_value",
    ),
    "effort none for gpt-5": (
        {"model": "gpt-5-mini", "reasoning_effort": "none"},
        (
            "Unsupported value: 'reasoning_effort' does not support 'none' with this model. "
            "Supported values are: 'minimal', 'low', 'medium', and 'high'."
        ),
        "reasoning_effort",
        "unsupported_value",
    ),
    "effort minimal for o3": (
        {"model": "o3", "reasoning_effort": "minimal"},
        (
            "Unsupported value: 'reasoning_effort' does not support 'minimal' with this model. "
            "Supported values are: 'low', 'medium', and 'high'."
        ),
        "reasoning_effort",
        "unsupported_value",
    ),
    "an effort of null": (
        {"model": "gpt-5", "reasoning_effort": None},
        "Invalid type for 'reasoning_effort': expected a string, but got null instead.",
        "reasoning_effort",
        "invalid_type",
    ),
    "an effort with function tools on gpt-5.4": (
        {"model": "gpt-5.4", "reasoning_effort": "low", "tools": [TOOL]},
        (
            "Function tools with reasoning_effort are not supported for gpt-5.4 in "
            "/v1/chat/completions. To use function tools, use /v1/responses or set "
            "reasoning_effort to 'none'."
        ),
        "reasoning_effort",
        None,
    ),
    "function tools without effort none on gpt-5.6": (
        {"model": "gpt-5.6", "tools": [TOOL]},
        (
            "Function tools with reasoning_effort are not supported for gpt-5.6 in "
            "/v1/chat/completions. To use function tools, use /v1/responses or set "
            "reasoning_effort to 'none'."
        ),
        "reasoning_effort",
        None,
    ),
    "both caps": (
        {"max_tokens": 5, "max_completion_tokens": 5},
        "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
        "max_tokens",
        "invalid_parameter_combination",
    ),
    "max_tokens on a reasoning model": (
        {"model": "o4-mini", "max_tokens": 5},
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead."
        ),
        "max_tokens",
        "unsupported_parameter",
    ),
    "a cap of 0": (
        {"max_completion_tokens": 0},
        (
            "Invalid 'max_completion_tokens': integer below minimum value. "
            "Expected a value >= 1, but got 0 instead."
        ),
        "max_completion_tokens",
        "integer_below_min_value",
    ),
    "a cap that is no number": (
        {"max_tokens": "5"},
        "Invalid type for 'max_tokens': expected an integer.",
        "max_tokens",
        "invalid_type",
    ),
    "a cap above the model's": (
        {"max_tokens": 20_000},
        (
            "max_tokens is too large: 20000. This model supports at most 16384 completion tokens, "
            "whereas you provided 20000."
        ),
        "max_tokens",
        "invalid_value",
    ),
    "a temperature on gpt-5": (
        {"model": "gpt-5", "temperature": 0.2},
        (
            "Unsupported value: 'temperature' does not support 0.2 with this model. "
            "Only the default (1) value is supported."
        ),
        "temperature",
        "unsupported_value",
    ),
    "a temperature on gpt-5.2 while it thinks": (
        {"model": "gpt-5.2", "temperature": 0, "reasoning_effort": "low"},
        (
            "Unsupported value: 'temperature' does not support 0 with this model. "
            "Only the default (1) value is supported."
        ),
        "temperature",
        "unsupported_value",
    ),
    "an empty list of tools": (
        {"tools": []},
        (
            "Invalid 'tools': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead."
        ),
        "tools",
        "empty_array",
    ),
    "no messages": (
        {"messages": []},
        (
            "Invalid 'messages': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead."
        ),
        "messages",
        "empty_array",
    ),
    "tool_choice without tools": (
        {"tool_choice": "none"},
        (
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are "
            "specified."
        ),
        "tool_choice",
        None,
    ),
    "tool_choice of an unknown tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "find"}}},
        (
            "Invalid value for 'tool_choice': no function named 'find' was specified in the "
            "'tools' parameter."
        ),
        "tool_choice",
        None,
    ),
    "a tool message nobody called for": (
        {"messages": [USER, {"role": "tool", "tool_call_id": "c1", "content": "x"}]},
        (
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
            "message with 'tool_calls'."
        ),
        "messages.[1].role",
        None,
    ),
    "a tool call nobody answered": (
        {"messages": [USER, CALLING, USER]},
        (
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: c1"
        ),
        "messages.[2].role",
        None,
    ),
    "stream_options without a stream": (
        {"stream_options": {"include_usage": True}},
        "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
        "stream_options",
        None,
    ),
    "no model": ({"model": ""}, "you must provide a model parameter", None, None),
}


@pytest.mark.parametrize(
    ("body", "message", "param", "code"), OPENAI_REFUSES.values(), ids=OPENAI_REFUSES
)
def test_openai_refuses(ask_openai, body, message, param, code):
    response = ask_openai(**body)
    assert response.status == 400
    assert response.body == {
        "error": {
            "message": message,
            "type": "invalid_request_error",
            "param": param,
            "code": code,
        }
    }


@pytest.mark.parametrize(
    "body",
    [
        {"model": "gpt-5", "reasoning_effort": "minimal", "tools": [TOOL], "temperature": 1},
        {"model": "gpt-5.1", "temperature": 0.2},
        {"model": "gpt-5.4", "tools": [TOOL]},
        {"model": "gpt-5.4", "tools": [TOOL], "reasoning_effort": "none"},
        {"model": "gpt-5.6", "reasoning_effort": "max"},
        {"model": "gpt-5.6", "tools": [TOOL], "reasoning_effort": "none"},
        {"model": "made-up", "reasoning_effort": "extreme", "max_tokens": 9, "temperature": 2},
        {"tools": [TOOL], "tool_choice": "none", "max_tokens": 16_384},
        {"messages": [USER, CALLING, {"role": "tool", "tool_call_id": "c1", "content": "x"}]},
    ],
    ids=str,
)
def test_openai_accepts(ask_openai, body):
    assert ask_openai(**body).status == 200


def test_a_request_without_a_key_is_refused(provider, post):
    nothing = {"accept": "*/*"}
    status, body = post(f"{provider.openai_url}/chat/completions", {}, nothing)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


def test_an_unknown_path_is_not_found(provider, post):
    assert post(f"{provider.openai_url}/responses", {}).status == 404


def test_a_body_that_is_no_json_object_is_refused(provider, post):
    assert post(f"{provider.openai_url}/chat/completions", b"[").status == 400
