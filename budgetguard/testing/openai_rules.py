"""Rules of OpenAI Chat Completions: what the real API answers 400 to, in its words.

Invariant: a model that `families` does not name is held only to rules that no model escapes.
The wording is that of errors quoted in the issues named in `families`, where one was found.
Stricter than the vendor in one point: `reasoning_effort: null`, which OpenAI's schema allows and
several OpenAI-compatible servers refuse, is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from budgetguard.testing.families import OpenAIFamily, openai_family
from budgetguard.testing.refusal import Refusal
from budgetguard.testing.shapes import number, table, tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from budgetguard.testing.request import Request
    from budgetguard.testing.shapes import Json

_CAPS: Final = ("max_tokens", "max_completion_tokens")


def check(request: Request) -> None:
    """Refuse what OpenAI refuses.

    Raises:
        Refusal: With status 400, the vendor's message, `param` and `code`.
    """
    if not request.model:
        raise Refusal("you must provide a model parameter")
    family = openai_family(request.model)
    _check_arrays(request.body)
    _check_stream_options(request)
    _check_tool_choice(request)
    _check_pairs(request.messages)
    _check_caps(request.body, family)
    if "reasoning_effort" in request.body:
        _check_effort(request.effort, family)
    if family is not None:
        _check_temperature(request, family)
        _check_tools_with_effort(request, family)


def _check_arrays(body: Json) -> None:
    for name in ("messages", "tools"):
        if body.get(name) == [] or (name == "messages" and name not in body):
            message = (
                f"Invalid '{name}': empty array. Expected an array with minimum length 1, "
                "but got an empty array instead."
            )
            raise Refusal(message, param=name, code="empty_array")


def _check_stream_options(request: Request) -> None:
    if "stream_options" in request.body and not request.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refusal(message, param="stream_options")


def _check_tool_choice(request: Request) -> None:
    choice = request.body.get("tool_choice")
    if choice is None:
        return
    invalid = "Invalid value for 'tool_choice': "
    if not request.tools:
        message = invalid + "'tool_choice' is only allowed when 'tools' are specified."
        raise Refusal(message, param="tool_choice")
    name = table(table(choice).get("function")).get("name")
    if name is not None and name not in request.tools:
        message = f"{invalid}no function named '{name}' was specified in the 'tools' parameter."
        raise Refusal(message, param="tool_choice")


def _check_pairs(messages: list[Json]) -> None:
    open_calls: list[str] = []
    callable_ids: set[str] = set()
    for index, message in enumerate(messages):
        if message.get("role") == "tool":
            answered = str(message.get("tool_call_id"))
            if answered not in callable_ids:
                raise Refusal(
                    "Invalid parameter: messages with role 'tool' must be a response to a "
                    "preceeding message with 'tool_calls'.",
                    param=f"messages.[{index}].role",
                )
            open_calls = [call for call in open_calls if call != answered]
            continue
        _check_answered(open_calls, index)
        open_calls = list(_call_ids(message))
        callable_ids = set(open_calls)
    _check_answered(open_calls, len(messages))


def _check_answered(open_calls: list[str], index: int) -> None:
    if open_calls:
        raise Refusal(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(open_calls),
            param=f"messages.[{index}].role",
        )


def _call_ids(message: Json) -> Iterator[str]:
    for call in tables(message.get("tool_calls")):
        yield str(call.get("id"))


def _check_caps(body: Json, family: OpenAIFamily | None) -> None:
    sent = {name: body[name] for name in _CAPS if body.get(name) is not None}
    if len(sent) == len(_CAPS):
        message = (
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        )
        raise Refusal(message, param="max_tokens", code="invalid_parameter_combination")
    if "max_tokens" in sent and family is not None and family.efforts:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead."
        )
        raise Refusal(message, param="max_tokens", code="unsupported_parameter")
    for name, cap in sent.items():
        _check_cap(name, cap, family)


def _check_cap(name: str, sent: object, family: OpenAIFamily | None) -> None:
    cap = number(sent)
    if cap is None:
        message = f"Invalid type for '{name}': expected an integer."
        raise Refusal(message, param=name, code="invalid_type")
    if cap < 1:
        message = (
            f"Invalid '{name}': integer below minimum value. "
            f"Expected a value >= 1, but got {cap} instead."
        )
        raise Refusal(message, param=name, code="integer_below_min_value")
    if family is not None and cap > family.max_output:
        message = (
            f"{name} is too large: {cap}. This model supports at most {family.max_output} "
            f"completion tokens, whereas you provided {cap}."
        )
        raise Refusal(message, param=name, code="invalid_value")


def _check_effort(effort: object, family: OpenAIFamily | None) -> None:
    if family is not None and not family.efforts:
        raise Refusal("Unrecognized request argument supplied: reasoning_effort")
    if effort is None:
        message = "Invalid type for 'reasoning_effort': expected a string, but got null instead."
        raise Refusal(message, param="reasoning_effort", code="invalid_type")
    if family is not None and effort not in family.efforts:
        *most, last = (f"'{level}'" for level in family.efforts)
        message = (
            f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. "
            f"Supported values are: {', '.join(most)}, and {last}."
        )
        raise Refusal(message, param="reasoning_effort", code="unsupported_value")


def _check_temperature(request: Request, family: OpenAIFamily) -> None:
    temperature = request.body.get("temperature")
    fixed = family.temperature == "fixed" or (family.temperature == "with none" and request.thinks)
    if fixed and temperature is not None and temperature != 1:
        message = (
            f"Unsupported value: 'temperature' does not support {temperature} with this model. "
            "Only the default (1) value is supported."
        )
        raise Refusal(message, param="temperature", code="unsupported_value")


def _check_tools_with_effort(request: Request, family: OpenAIFamily) -> None:
    asked = request.effort is not None or family.tools_need_none == "always"
    if family.tools_need_none != "never" and request.tools and asked and request.thinks:
        message = (
            f"Function tools with reasoning_effort are not supported for {request.model} in "
            "/v1/chat/completions. To use function tools, use /v1/responses or set "
            "reasoning_effort to 'none'."
        )
        raise Refusal(message, param="reasoning_effort")
