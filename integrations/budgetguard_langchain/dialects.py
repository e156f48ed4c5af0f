"""The field names of each model class: what the caller asked for, and how to steer a request.

The values come from `budgetguard.efforts`; here are only the names. `kwargs` are per-call
arguments, a copy of the model is made (sharing its HTTP clients) only where a field beats them.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, Final, cast

from budgetguard.efforts import EFFORTS, Asked, Effort, Steering, anthropic, family_of, openai_chat
from budgetguard.efforts.facts import UNKNOWN
from budgetguard.efforts.scale import effort_of

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel

    from budgetguard import Plan

_log = logging.getLogger("budgetguard")

_CAPS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens", "num_predict")
"""What may cap the output; of the first, only as an argument."""

Steered = tuple["BaseChatModel", dict[str, Any]]


class Dialect:
    """A model class of which only the name of its output cap can be found out."""

    def asked(self, model: BaseChatModel, kwargs: dict[str, Any]) -> Asked:
        """What the caller asked for, on the model or with the call."""
        cap = self._own_cap(model, kwargs)
        return Asked(UNKNOWN, max_output_tokens=cap, tools=bool(kwargs.get("tools")))

    def steering(self, plan: Plan, asked: Asked) -> Steering:
        """What the Plan changes; of an unknown class only the output cap."""
        cap = plan.max_output_tokens
        if cap is not None and asked.max_output_tokens is not None:
            cap = cap if cap < asked.max_output_tokens else None
        return Steering(max_output_tokens=cap)

    def apply(self, model: BaseChatModel, kwargs: dict[str, Any], steering: Steering) -> Steered:
        """The model and the arguments that make the steered request."""
        cap = steering.max_output_tokens
        if cap is None:
            return model, kwargs
        field = cap_field(type(model))
        if field is None:
            _say_unsteered(type(model).__name__)
            return model, kwargs
        if field in kwargs:
            return model, {**kwargs, field: cap}
        return with_fields(model, {field: cap}), kwargs

    def asking_for_usage(self, model: BaseChatModel, kwargs: dict[str, Any]) -> Steered:
        """The model and the arguments with which a stream reports its usage."""
        return model, kwargs

    def _own_cap(self, model: BaseChatModel, kwargs: dict[str, Any]) -> int | None:
        own: set[str] = model.__pydantic_fields_set__  # what its property returns, sooner
        for name in _CAPS:
            cap = kwargs.get(name)
            if cap is None and name in own:
                cap = getattr(model, name, None)
            if isinstance(cap, int) and cap > 0:
                most = (model.profile or {}).get("max_output_tokens")
                return None if cap == most else cap  # ChatAnthropic fills in the model's maximum
        return None


class OpenAIChat(Dialect):
    """ChatOpenAI and AzureChatOpenAI on Chat Completions."""

    def asked(self, model: BaseChatModel, kwargs: dict[str, Any]) -> Asked:
        """What the caller asked for, on the model or with the call."""
        effort = kwargs.get("reasoning_effort") or getattr(model, "reasoning_effort", None)
        if effort is None:
            reasoning = _table(kwargs.get("reasoning") or getattr(model, "reasoning", None))
            effort = reasoning.get("effort")
        family, level = family_of(model_name(model, kwargs)), _level(effort)
        return Asked(
            family,
            effort=level,
            thinks=family.thinks != "never" and (level or family.default or "none") != "none",
            max_output_tokens=self._own_cap(model, kwargs),
            tools=bool(kwargs.get("tools")),
        )

    def steering(self, plan: Plan, asked: Asked) -> Steering:
        """What the Plan changes."""
        return openai_chat(plan, asked)

    def apply(self, model: BaseChatModel, kwargs: dict[str, Any], steering: Steering) -> Steered:
        """The model and the arguments that make the steered request."""
        if steering.max_output_tokens is not None:
            kwargs = {k: v for k, v in kwargs.items() if k != "max_tokens"}
            kwargs["max_completion_tokens"] = steering.max_output_tokens
        if steering.effort is not None:
            kwargs = {**kwargs, **_openai_effort(model, kwargs, steering.effort)}
        if steering.tools_off:
            kwargs = {**kwargs, "tool_choice": "none"}
        return model, kwargs

    def asking_for_usage(self, model: BaseChatModel, kwargs: dict[str, Any]) -> Steered:
        """The same for a stream: it reports its usage, also with a custom base_url."""
        kwargs = {name: value for name, value in kwargs.items() if name != "stream_usage"}
        if not model.stream_usage:  # type: ignore[attr-defined]  # a field of ChatOpenAI
            model = with_fields(model, {"stream_usage": True})
        return model, kwargs


class Anthropic(Dialect):
    """ChatAnthropic."""

    def asked(self, model: BaseChatModel, kwargs: dict[str, Any]) -> Asked:
        """What the caller asked for, on the model or with the call."""
        thinking = _table(getattr(model, "thinking", None) or kwargs.get("thinking"))
        config = _table(getattr(model, "output_config", None))
        config |= _table(kwargs.get("output_config"))
        effort = kwargs.get("effort") or kwargs.get("reasoning_effort") or config.get("effort")
        family, budget = family_of(model_name(model, kwargs)), thinking.get("budget_tokens")
        level = _level(effort or getattr(model, "reasoning_effort", None))
        return Asked(
            family,
            effort=level or (effort_of(budget) if budget else None),
            thinks=thinking.get("type", family.thinks) in ("enabled", "adaptive", "always"),
            thinking_tokens=budget,
            max_output_tokens=self._own_cap(model, kwargs),
            tools=bool(kwargs.get("tools")),
        )

    def steering(self, plan: Plan, asked: Asked) -> Steering:
        """What the Plan changes."""
        return anthropic(plan, asked)

    def apply(self, model: BaseChatModel, kwargs: dict[str, Any], steering: Steering) -> Steered:
        """The model and the arguments; a `thinking` field beats an argument, so it is replaced."""
        if steering.max_output_tokens is not None:
            kwargs = {**kwargs, "max_tokens": steering.max_output_tokens}
        if steering.effort is not None:
            kwargs = _with_effort(kwargs, steering.effort)
        if steering.tools_off:
            kwargs = {**kwargs, "tool_choice": {"type": "none"}}
        if steering.thinking_tokens is not None:
            thinking = _thinking(steering.thinking_tokens)
            if "thinking" in kwargs:
                kwargs = {**kwargs, "thinking": thinking}
            if getattr(model, "thinking", None) is not None:
                model = with_fields(model, {"thinking": thinking})
        return model, kwargs


def _with_effort(kwargs: dict[str, Any], effort: Effort) -> dict[str, Any]:
    """Set it where the caller did, else in `output_config`, which adds no thinking."""
    for name in ("effort", "reasoning_effort"):
        if kwargs.get(name):
            return {**kwargs, name: effort}
    return {**kwargs, "output_config": {**kwargs.get("output_config", {}), "effort": effort}}


def _thinking(tokens: int) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": tokens} if tokens else {"type": "disabled"}


@functools.cache
def dialect_of(kind: type) -> Dialect:
    """The dialect of a model class, found by name so that no partner package is imported."""
    for base in kind.__mro__:
        where = f"{base.__module__.partition('.')[0]}.{base.__name__}"
        if where in ("langchain_openai.ChatOpenAI", "langchain_openai.AzureChatOpenAI"):
            return OpenAIChat()
        if where == "langchain_anthropic.ChatAnthropic":
            return Anthropic()
    return Dialect()


def with_fields(model: BaseChatModel, fields: dict[str, Any]) -> BaseChatModel:
    """A copy of the model with other fields, sharing its HTTP clients."""
    shown: dict[str, Any] = getattr(model, "_serialized", {})  # made once, for tracers and caches
    copy = model.model_copy(update=fields)
    if "kwargs" in shown:
        shown = {**shown, "kwargs": {**shown["kwargs"], **fields}}
    vars(copy)["_serialized"] = {name: shown[name] for name in shown if name != "repr"}
    return copy


def model_name(model: BaseChatModel, kwargs: dict[str, Any]) -> str:
    """The name of the model that a call will use."""
    name = kwargs.get("model")
    if isinstance(name, str):
        return name
    for field in name_fields(type(model)):
        name = getattr(model, field)
        if isinstance(name, str):
            return name
    return type(model).__name__


@functools.cache
def cap_field(kind: type[BaseChatModel]) -> str | None:
    """The field that caps the output of a class; looked up once, as its fields are slow to ask."""
    return next((name for name in _CAPS[1:] if name in kind.model_fields), None)


@functools.cache
def name_fields(kind: type[BaseChatModel]) -> tuple[str, ...]:
    """What may hold the name; looked up once, as a missing attribute is slow to miss."""
    names = ("model_name", "model", "model_id", "azure_deployment", "deployment_name")
    fields = [name for name in names if name in kind.model_fields]
    return tuple(
        fields or [name for name in names if isinstance(getattr(kind, name, None), property)]
    )


@functools.cache
def can_change_model(kind: type[BaseChatModel]) -> bool:
    """Whether a rung of a ladder can be put in its place: its name is a field, and decides."""
    decides = any(name in kind.model_fields for name in ("model_name", "model"))
    deployed = any(name in kind.model_fields for name in ("azure_deployment", "deployment_name"))
    return decides and not deployed


@functools.cache
def provider_of(kind: type) -> str | None:
    """Who serves a model class, where its class tells; it helps to find the price."""
    dialect = dialect_of(kind)
    if isinstance(dialect, OpenAIChat):
        return "openai"
    return "anthropic" if isinstance(dialect, Anthropic) else None


def _table(value: object) -> dict[str, Any]:
    return dict(cast("dict[str, Any]", value)) if isinstance(value, dict) and value else {}


def _level(value: object) -> Effort | None:
    if value is None:
        return None
    return next((level for level in EFFORTS if level == value), None)


def _openai_effort(model: BaseChatModel, kwargs: dict[str, Any], effort: Effort) -> dict[str, Any]:
    """Set it where the caller did: in `reasoning`, which means the Responses API, or by name."""
    reasoning = _table(kwargs.get("reasoning") or getattr(model, "reasoning", None))
    if reasoning:
        return {"reasoning": {**reasoning, "effort": effort}}
    return {"reasoning_effort": effort}


@functools.cache
def _say_unsteered(kind: str) -> None:
    """Say once for each class that its output cannot be capped."""
    _log.warning(
        "%s names no output cap known to budgetguard: its calls are counted, not capped", kind
    )
