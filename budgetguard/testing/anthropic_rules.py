"""Rules of Anthropic Messages: what the real API answers 400 to, in its words.

Invariant: a model that `families` does not name is held only to rules that no model escapes.
The wording is that of errors quoted in the issues named in `families`, where one was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from budgetguard.testing.families import AnthropicFamily, anthropic_family
from budgetguard.testing.refusal import Refusal
from budgetguard.testing.shapes import Json, number, table, tables

if TYPE_CHECKING:
    from budgetguard.testing.request import Request

_MIN_BUDGET: Final = 1024
_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")


def check(request: Request) -> None:
    """Refuse what Anthropic refuses.

    Raises:
        Refusal: With status 400 and the vendor's message.
    """
    if not request.model:
        raise Refusal("model: Field required")
    family = anthropic_family(request.model)
    _check_max_tokens(request, family)
    if not request.messages:
        raise Refusal("messages: at least one message is required")
    _check_thinking(request)
    if family is not None:
        _check_family(request, family)
    _check_effort(request.effort, family)
    _check_tool_choice(request, family)
    _check_pairs(request.messages)
    _check_thinking_kept(request)


def _check_max_tokens(request: Request, family: AnthropicFamily | None) -> None:
    if "max_tokens" not in request.body:
        raise Refusal("max_tokens: Field required")
    cap = number(request.body["max_tokens"])
    if cap is None:
        raise Refusal("max_tokens: Input should be a valid integer")
    if cap < 1:
        raise Refusal("max_tokens: Input should be greater than or equal to 1")
    if family is not None and cap > family.max_output:
        raise Refusal(
            f"max_tokens: {cap} > {family.max_output}, which is the maximum allowed number of "
            f"output tokens for {request.model}"
        )


def _check_thinking(request: Request) -> None:
    if request.thinking is None:
        return
    if request.thinking == "enabled":
        budget = request.thinking_budget
        if budget is None:
            raise Refusal("thinking.enabled.budget_tokens: Field required")
        if budget < _MIN_BUDGET:
            raise Refusal(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
            )
        if budget >= request.body["max_tokens"]:
            raise Refusal("`max_tokens` must be greater than `thinking.budget_tokens`.")
    temperature = request.body.get("temperature")
    if request.thinks and temperature is not None and temperature != 1:
        raise Refusal("`temperature` may only be set to 1 when thinking is enabled.")


def _check_family(request: Request, family: AnthropicFamily) -> None:
    kind = request.thinking
    if kind == "adaptive" and kind not in family.thinking:
        raise Refusal("adaptive thinking is not supported on this model")
    above_high = family.disabled_up_to_high and request.effort in {"xhigh", "max"}
    if kind is not None and (kind not in family.thinking or (kind == "disabled" and above_high)):
        raise Refusal(
            f'"thinking.type.{kind}" is not supported for this model. Use "thinking.type.adaptive" '
            'and "output_config.effort" to control thinking behavior.'
        )
    temperature = request.body.get("temperature")
    if not family.sampling and temperature is not None and temperature != 1:
        raise Refusal("`temperature` is deprecated for this model.")


def _check_effort(effort: object, family: AnthropicFamily | None) -> None:
    if effort is None:
        return
    if family is not None and not family.efforts:
        raise Refusal("This model does not support the effort parameter.")
    if effort not in _EFFORTS:
        *most, last = (f"'{level}'" for level in _EFFORTS)
        raise Refusal(f"output_config.effort: Input should be {', '.join(most)} or {last}")
    if family is not None and effort not in family.efforts:
        supported = ", ".join(sorted(family.efforts))
        raise Refusal(
            f"This model does not support effort level '{effort}'. Supported levels: {supported}."
        )


def _check_tool_choice(request: Request, family: AnthropicFamily | None) -> None:
    choice = request.body.get("tool_choice")
    if choice is None:
        return
    chosen = table(choice)
    if not chosen:
        raise Refusal(
            "tool_choice: Input should be a valid dictionary or object to extract fields from"
        )
    if not request.tools:
        raise Refusal("tool_choice may only be specified while providing tools.")
    kind, name = chosen.get("type"), chosen.get("name")
    if kind == "tool" and name not in request.tools:
        raise Refusal(f"Tool '{name}' not found in provided tools")
    if kind in {"any", "tool"}:
        asked = request.thinking in {"enabled", "adaptive"}
        if asked or (family is not None and not family.forced_tools):
            raise Refusal("Thinking may not be enabled when tool_choice forces tool use.")


def _check_pairs(messages: list[Json]) -> None:
    called: list[str] = []
    for index, message in enumerate(messages):
        results = [str(b.get("tool_use_id")) for b in _blocks(message, "tool_result")]
        strangers = [result for result in results if result not in called]
        if strangers:
            raise Refusal(
                f"messages.{index}.content.0: unexpected `tool_use_id` found in `tool_result` "
                f"blocks: {', '.join(strangers)}. Each `tool_result` block must have a "
                "corresponding `tool_use` block in the previous message."
            )
        _check_answered([call for call in called if call not in results], index - 1)
        called = [str(block.get("id")) for block in _blocks(message, "tool_use")]
    _check_answered(called, len(messages) - 1)


def _check_answered(open_calls: list[str], index: int) -> None:
    if open_calls:
        raise Refusal(
            f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately "
            f"after: {', '.join(open_calls)}. Each `tool_use` block must have a corresponding "
            "`tool_result` block in the next message."
        )


def _check_thinking_kept(request: Request) -> None:
    """Thinking with a budget cannot be turned on in the middle of a tool loop."""
    if request.thinking != "enabled" or not _blocks(request.messages[-1], "tool_result"):
        return
    index = max((i for i, m in enumerate(request.messages) if m.get("role") == "assistant"))
    first = (tables(request.messages[index].get("content")) or [Json()])[0]
    if first.get("type") not in {"thinking", "redacted_thinking"}:
        raise Refusal(
            f"messages.{index}.content.0.type: Expected `thinking` or `redacted_thinking`, but "
            f"found `{first.get('type')}`. When `thinking` is enabled, a final `assistant` message "
            "must start with a thinking block."
        )


def _blocks(message: Json, kind: str) -> list[Json]:
    return [block for block in tables(message.get("content")) if block.get("type") == kind]
