"""Families of models and what their APIs accept: dated facts, each with its source.

A model that no family names is taken to accept anything, so that a test may use made-up names.
`docs: langchain` stands for the model profiles shipped with langchain-openai 1.7 and
langchain-anthropic 1.7 (`data/_profiles.py`), which are made from models.dev.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

CHECKED: Final = "2026-11-20"
"""When the facts below were last compared with their sources."""

_TO_HIGH: Final = ("low", "medium", "high")
_TO_XHIGH: Final = ("none", *_TO_HIGH, "xhigh")
_CLAUDE_ALL: Final = (*_TO_HIGH, "xhigh", "max")


@dataclass(frozen=True, slots=True)
class OpenAIFamily:
    """What `/v1/chat/completions` accepts for some models."""

    models: tuple[str, ...]
    """The names, without a date suffix."""
    max_output: int
    """The most output tokens a call may ask for."""
    efforts: tuple[str, ...] = ()
    """The values of `reasoning_effort`; empty: the parameter is refused, the model never thinks."""
    default_effort: str = "none"
    """The effort when the request names none."""
    temperature: Literal["any", "with none", "fixed"] = "any"
    """Whether a temperature other than 1 is accepted: always, only at effort `none`, never."""
    tools_need_none: Literal["never", "if set", "always"] = "never"
    """When function tools need effort `none`: never, if an effort is sent, even if none is sent."""
    source: str = "docs: langchain"


@dataclass(frozen=True, slots=True)
class AnthropicFamily:
    """What `/v1/messages` accepts for some models."""

    models: tuple[str, ...]
    """The names, without a date suffix."""
    max_output: int
    """The largest `max_tokens`."""
    efforts: tuple[str, ...] = ()
    """The values of `output_config.effort`; empty: the parameter is refused."""
    thinking: tuple[str, ...] = ("disabled", "enabled")
    """The values of `thinking.type`."""
    disabled_up_to_high: bool = False
    """Whether `disabled` is refused at an effort above `high`."""
    thinks_by_default: bool = False
    """Whether a request without `thinking` thinks."""
    sampling: bool = True
    """Whether a temperature other than 1 is accepted."""
    forced_tools: bool = True
    """Whether `tool_choice` may force a tool at all."""
    source: str = "docs: langchain"


_TOOLS_AND_EFFORT: Final = "pipecat#4043, crush#2913, openai-openapi#541 (400s of the real API)"

OPENAI: Final = (
    OpenAIFamily(("gpt-4o", "gpt-4o-mini"), 16_384, source="langchain_dart#712, docs: langchain"),
    OpenAIFamily(("gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano"), 32_768),
    OpenAIFamily(("o1", "o3", "o3-mini", "o4-mini"), 100_000, _TO_HIGH, "medium", "fixed"),
    OpenAIFamily(
        ("gpt-5", "gpt-5-mini", "gpt-5-nano"), 128_000, ("minimal", *_TO_HIGH), "medium", "fixed"
    ),
    OpenAIFamily(
        ("gpt-5.1",),
        128_000,
        ("none", *_TO_HIGH),
        temperature="with none",
        source="opencode#4451 (a 400 of the real API), docs: langchain",
    ),
    OpenAIFamily(("gpt-5.2",), 128_000, _TO_XHIGH, temperature="with none"),
    OpenAIFamily(
        ("gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano"),
        128_000,
        _TO_XHIGH,
        temperature="with none",
        tools_need_none="if set",
        source=_TOOLS_AND_EFFORT,
    ),
    OpenAIFamily(
        ("gpt-5.5",), 128_000, _TO_XHIGH, "medium", "fixed", "if set", source=_TOOLS_AND_EFFORT
    ),
    OpenAIFamily(
        ("gpt-5.6", "gpt-5.6-luna", "gpt-5.6-sol", "gpt-5.6-terra"),
        128_000,
        (*_TO_XHIGH, "max"),
        "medium",
        "fixed",
        "always",
        source="litellm#34569 (tools), SuperAgent#1142 and opencode#36141 (efforts)",
    ),
)

ANTHROPIC: Final = (
    AnthropicFamily(("claude-3-7-sonnet", "claude-sonnet-4", "claude-sonnet-4-0"), 64_000),
    AnthropicFamily(("claude-opus-4", "claude-opus-4-0", "claude-opus-4-1"), 32_000),
    AnthropicFamily(("claude-sonnet-4-5", "claude-haiku-4-5"), 64_000),
    AnthropicFamily(("claude-opus-4-5",), 64_000, _TO_HIGH, source="dario#491 (a 400)"),
    AnthropicFamily(
        ("claude-opus-4-6", "claude-sonnet-4-6"),
        128_000,
        (*_TO_HIGH, "max"),
        ("disabled", "enabled", "adaptive"),
        source="SuperAgent#1142 (checked live), docs: langchain",
    ),
    AnthropicFamily(
        ("claude-opus-4-7", "claude-opus-4-8"),
        128_000,
        _CLAUDE_ALL,
        ("disabled", "adaptive"),
        sampling=False,
        source="basiliskLLM#1185 (thinking), FluidVoice#285 (temperature): 400s of the real API",
    ),
    AnthropicFamily(
        ("claude-sonnet-5",),
        128_000,
        _CLAUDE_ALL,
        ("disabled", "adaptive"),
        thinks_by_default=True,
        sampling=False,
    ),
    AnthropicFamily(
        ("claude-opus-5",),
        128_000,
        _CLAUDE_ALL,
        ("disabled", "adaptive"),
        disabled_up_to_high=True,
        thinks_by_default=True,
        sampling=False,
    ),
    AnthropicFamily(
        ("claude-fable-5",),
        128_000,
        _CLAUDE_ALL,
        ("adaptive",),
        thinks_by_default=True,
        sampling=False,
    ),
    AnthropicFamily(
        ("claude-opus-5-5", "claude-fable-5-1", "claude-sonnet-5-5"),
        128_000,
        _CLAUDE_ALL,
        ("adaptive",),
        thinks_by_default=True,
        sampling=False,
        forced_tools=False,
    ),
)

_DATE: Final = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|latest)$")
_OPENAI: Final = {name: family for family in OPENAI for name in family.models}
_ANTHROPIC: Final = {name: family for family in ANTHROPIC for name in family.models}


def openai_family(model: str) -> OpenAIFamily | None:
    """The family of an OpenAI model, its date suffix ignored; `None` for an unknown name."""
    return _OPENAI.get(_DATE.sub("", model))


def anthropic_family(model: str) -> AnthropicFamily | None:
    """The family of a Claude model, its date suffix ignored; `None` for an unknown name."""
    return _ANTHROPIC.get(_DATE.sub("", model))
