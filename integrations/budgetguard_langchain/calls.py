"""From a LangChain call to a `Call`, and from an admitted `Ticket` to the call that is made."""

from __future__ import annotations

import json
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from budgetguard import Call, Scope, Ticket, Usage
from budgetguard.counting import Calibration, Conversation, Counted
from budgetguard.efforts.facts import family_of
from budgetguard.efforts.steering import settable
from budgetguard_langchain.dialects import (
    can_change_model,
    dialect_of,
    model_name,
    provider_of,
)
from budgetguard_langchain.messages import is_answer, texts, with_last_instruction

if TYPE_CHECKING:
    from collections.abc import Hashable

    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import BaseMessage

    from budgetguard.efforts import Asked

CALIBRATION: Final = Calibration()
"""What bills taught about estimates, in this process."""

_SCHEMAS: Final = ("response_format", "functions", "output_config", "output_format")
_counting = threading.Lock()  # one conversation may be counted by several threads


class Described(NamedTuple):
    """A call to be admitted, and how its input was counted."""

    call: Call
    counted: Counted[BaseMessage]
    conversation: Conversation[BaseMessage]
    asked: Asked


def describe(  # noqa: PLR0913 -- the call, and where it runs
    scope: Scope,
    model: BaseChatModel,
    messages: list[BaseMessage],
    kwargs: dict[str, Any],
    *,
    path: tuple[Hashable, ...],
    in_graph: bool,
) -> Described:
    """What is known of a call before it is made.

    Args:
        scope: The scope it is made in.
        model: The model asked.
        messages: Its input.
        kwargs: The per-call arguments.
        path: Ids of the graphs and tools around it, outermost first; empty for a call that is a
            task of its own.
        in_graph: Whether LangGraph runs it in a node.
    """
    asked = dialect_of(type(model)).asked(model, kwargs)
    loop = path if _in_loop(messages, kwargs, path, in_graph=in_graph) else ()
    name = model_name(model, kwargs)
    tools: list[Any] = kwargs.get("tools") or []
    schemas = [*tools, *(kwargs[name] for name in _SCHEMAS if kwargs.get(name))]
    conversation = _conversation(scope, loop)
    with _counting:
        counted = conversation.count(
            name,
            messages,
            tools=lambda: json.dumps(schemas, ensure_ascii=False, default=_as_json),
            tool_count=len(schemas),
        )
    most = model.profile.get("max_output_tokens") if model.profile else None
    call = Call(
        model=name,
        provider=provider_of(type(model)),
        input_tokens=counted.tokens,
        max_output_tokens=asked.max_output_tokens,
        effort=asked.effort or asked.family.default,
        levels=settable(asked),
        thinks=asked.thinks,
        thinking_tokens=asked.thinking_tokens,
        tools=bool(tools),
        loop=loop,
        n=kwargs.get("n") or getattr(model, "n", None) or 1,
        model_max_output=most or asked.family.max_output,
        can_change_model=can_change_model(type(model)),
    )
    return Described(call, counted, conversation, asked)


def prepare(  # noqa: PLR0913 -- the call, and what was decided about it
    ticket: Ticket,
    asked: Asked,
    model: BaseChatModel,
    messages: list[BaseMessage],
    kwargs: dict[str, Any],
    *,
    streams: bool,
) -> tuple[BaseChatModel, list[BaseMessage], dict[str, Any]]:
    """The model, messages and arguments of the call that the ticket allows."""
    plan = ticket.plan
    if plan.rung:
        model = rebuilt(model, ticket.model)
        kwargs = {name: value for name, value in kwargs.items() if name != "model"}
        asked = dialect_of(type(model)).asked(model, kwargs)
    dialect = dialect_of(type(model))
    model, kwargs = dialect.apply(model, kwargs, dialect.steering(plan, asked))
    if streams:
        model, kwargs = dialect.asking_for_usage(model, kwargs)
    if plan.final:
        messages = with_last_instruction(messages)
    return model, messages, kwargs


def _as_json(value: Any) -> Any:
    """A schema given as a class, as JSON."""
    schema = getattr(value, "model_json_schema", None) if isinstance(value, type) else None
    return str(value) if schema is None else schema()


def record_bill(described: Described, usage: Usage) -> None:
    """Let the conversation, and the calibration of estimates, learn from a reported bill."""
    with _counting:
        described.conversation.billed(
            described.counted,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            hidden_tokens=usage.reasoning_tokens,
        )


def _in_loop(
    messages: list[BaseMessage],
    kwargs: dict[str, Any],
    path: tuple[Hashable, ...],
    *,
    in_graph: bool,
) -> bool:
    """Whether the call belongs to an agent loop, rather than being its own answer.

    Tools are offered, not as the form of a structured answer, and either LangGraph runs the call
    in a node or the conversation ends in a tool's result.
    """
    if not path or not kwargs.get("tools") or "ls_structured_output_format" in kwargs:
        return False
    return in_graph or (bool(messages) and messages[-1].type == "tool")


def _conversation(scope: Scope, loop: tuple[Hashable, ...]) -> Conversation[BaseMessage]:
    holder = scope.holder(loop)
    if holder.conversation is None:
        holder.conversation = Conversation(CALIBRATION, texts=texts, is_answer=is_answer)
    return holder.conversation


def _cap(model: BaseChatModel) -> int | None:
    cap = getattr(model, "max_tokens", None)
    return cap if isinstance(cap, int) else None


_OF_THINKERS: Final = ("reasoning_effort", "reasoning", "thinking", "effort", "verbosity")
_rebuilt: dict[tuple[int, str], tuple[weakref.ref[Any], Any]] = {}
_MOST_REBUILT: Final = 64


def rebuilt(model: BaseChatModel, name: str) -> BaseChatModel:
    """The same model class under another model name, validated by its constructor, and cached.

    What a model that does not think cannot take is left out, and a cap above its maximum.

    The constructor knows what the other model takes (it drops a temperature that a reasoning model
    refuses, say), which a changed copy would not.
    """
    key = id(model), name
    known = _rebuilt.get(key)
    if known is not None and known[0]() is model:
        return known[1]
    family = family_of(name)
    left_out = {"profile"} if family.thinks != "never" else {"profile", *_OF_THINKERS}
    if family.max_output is not None and (_cap(model) or 0) > family.max_output:
        left_out.add("max_tokens")
    fields = {each: getattr(model, each) for each in model.model_fields_set - left_out}
    fields["model_name" if "model_name" in type(model).model_fields else "model"] = name
    new = type(model)(**fields)
    if len(_rebuilt) >= _MOST_REBUILT:
        _rebuilt.clear()
    _rebuilt[key] = weakref.ref(model), new
    return new
