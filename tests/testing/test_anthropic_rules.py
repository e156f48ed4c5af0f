"""What Anthropic Messages refuses, in its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from budgetguard.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = {"role": "user", "content": "Hi"}
CLAUDE_TOOL = {"name": "search", "input_schema": {"type": "object"}}
USING = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "search"}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x"}]}
BUDGET = {"type": "enabled", "budget_tokens": 1024}
NEEDS_ADAPTIVE = (
    '"thinking.type.{}" is not supported for this model. Use "thinking.type.adaptive" and '
    '"output_config.effort" to control thinking behavior.'
)


@pytest.fixture(scope="module")
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider("Hello.") as provider:
        yield provider


@pytest.fixture
def ask_anthropic(provider, post):
    def ask(**body: Any) -> Any:
        whole = {"model": "claude-sonnet-4-5", "messages": [USER], "max_tokens": 4096} | body
        sent = {name: value for name, value in whole.items() if value is not ...}
        return post(f"{provider.anthropic_url}/v1/messages", sent, {"x-api-key": "k"})

    return ask


ANTHROPIC_REFUSES = {
    "no max_tokens": ({"max_tokens": ...}, "max_tokens: Field required"),
    "max_tokens of 0": (
        {"max_tokens": 0},
        "max_tokens: Input should be greater than or equal to 1",
    ),
    "max_tokens that is no number": (
        {"max_tokens": "9"},
        "max_tokens: Input should be a valid integer",
    ),
    "max_tokens above the model's": (
        {"max_tokens": 64_001},
        (
            "max_tokens: 64001 > 64000, which is the maximum allowed number of output tokens for "
            "claude-sonnet-4-5"
        ),
    ),
    "no messages": ({"messages": []}, "messages: at least one message is required"),
    "a thinking budget below 1024": (
        {"thinking": {"type": "enabled", "budget_tokens": 1023}},
        "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
    ),
    "thinking enabled without a budget": (
        {"thinking": {"type": "enabled"}},
        "thinking.enabled.budget_tokens: Field required",
    ),
    "a thinking budget of max_tokens": (
        {"thinking": {"type": "enabled", "budget_tokens": 4096}},
        "`max_tokens` must be greater than `thinking.budget_tokens`.",
    ),
    "a temperature with thinking": (
        {"thinking": BUDGET, "temperature": 0.0},
        "`temperature` may only be set to 1 when thinking is enabled.",
    ),
    "a temperature from 4.7 on": (
        {"model": "claude-opus-4-7", "temperature": 0.0},
        "`temperature` is deprecated for this model.",
    ),
    "a forced tool with thinking": (
        {"thinking": BUDGET, "tools": [CLAUDE_TOOL], "tool_choice": {"type": "any"}},
        "Thinking may not be enabled when tool_choice forces tool use.",
    ),
    "a forced tool on a model that always thinks": (
        {
            "model": "claude-opus-5-5",
            "tools": [CLAUDE_TOOL],
            "tool_choice": {"type": "tool", "name": "search"},
        },
        "Thinking may not be enabled when tool_choice forces tool use.",
    ),
    "a tool_choice that is a string": (
        {"tools": [CLAUDE_TOOL], "tool_choice": "none"},
        "tool_choice: Input should be a valid dictionary or object to extract fields from",
    ),
    "tool_choice of an unknown tool": (
        {"tools": [CLAUDE_TOOL], "tool_choice": {"type": "tool", "name": "find"}},
        "Tool 'find' not found in provided tools",
    ),
    "tool_choice without tools": (
        {"tool_choice": {"type": "none"}},
        "tool_choice may only be specified while providing tools.",
    ),
    "an effort for a model that has none": (
        {"output_config": {"effort": "low"}},
        "This model does not support the effort parameter.",
    ),
    "an effort above the family's": (
        {"model": "claude-opus-4-5-20251101", "output_config": {"effort": "max"}},
        "This model does not support effort level 'max'. Supported levels: high, low, medium.",
    ),
    "an effort no model has": (
        {"model": "claude-opus-5", "output_config": {"effort": "minimal"}},
        "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'",
    ),
    "adaptive thinking before 4.6": (
        {"thinking": {"type": "adaptive"}},
        "adaptive thinking is not supported on this model",
    ),
    "a thinking budget from 4.7 on": (
        {"model": "claude-opus-4-7", "thinking": BUDGET},
        NEEDS_ADAPTIVE.format("enabled"),
    ),
    "thinking disabled where it cannot be": (
        {"model": "claude-sonnet-5-5", "thinking": {"type": "disabled"}},
        NEEDS_ADAPTIVE.format("disabled"),
    ),
    "thinking disabled above effort high": (
        {
            "model": "claude-opus-5",
            "thinking": {"type": "disabled"},
            "output_config": {"effort": "xhigh"},
        },
        NEEDS_ADAPTIVE.format("disabled"),
    ),
    "a tool result nobody asked for": (
        {"messages": [USER, RESULT]},
        (
            "messages.1.content.0: unexpected `tool_use_id` found in `tool_result` blocks: t1. "
            "Each `tool_result` block must have a corresponding `tool_use` block in the previous "
            "message."
        ),
    ),
    "a tool use nobody answered": (
        {"messages": [USER, USING, USER]},
        (
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: "
            "t1. Each `tool_use` block must have a corresponding `tool_result` block in the next "
            "message."
        ),
    ),
    "thinking turned on in a tool loop": (
        {"messages": [USER, USING, RESULT], "thinking": BUDGET},
        (
            "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
            "`tool_use`. When `thinking` is enabled, a final `assistant` message must start with a "
            "thinking block."
        ),
    ),
    "no model": ({"model": ""}, "model: Field required"),
}


@pytest.mark.parametrize(("body", "message"), ANTHROPIC_REFUSES.values(), ids=ANTHROPIC_REFUSES)
def test_anthropic_refuses(ask_anthropic, body, message):
    response = ask_anthropic(**body)
    assert response.status == 400
    assert response.body == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": message},
        "request_id": "req_loopback",
    }


@pytest.mark.parametrize(
    "body",
    [
        {"thinking": BUDGET, "temperature": 1, "tools": [CLAUDE_TOOL]},
        {"thinking": BUDGET, "tools": [CLAUDE_TOOL], "tool_choice": {"type": "none"}},
        {"model": "claude-opus-4-6", "thinking": BUDGET, "output_config": {"effort": "max"}},
        {"model": "claude-opus-4-6", "thinking": {"type": "adaptive"}},
        {"model": "claude-opus-5", "thinking": {"type": "disabled"}},
        {"model": "claude-3-7-sonnet-latest", "thinking": BUDGET},
        {"model": "made-up", "thinking": {"type": "adaptive"}, "max_tokens": 1_000_000},
        {"tools": [], "temperature": 0.0},
        {"messages": [USER, USING, RESULT]},
    ],
    ids=str,
)
def test_anthropic_accepts(ask_anthropic, body):
    assert ask_anthropic(**body).status == 200


def test_a_request_without_a_key_is_refused(provider, post):
    status, body = post(f"{provider.anthropic_url}/v1/messages", {}, {"accept": "*/*"})
    assert (status, body["error"]["type"]) == (401, "authentication_error")
