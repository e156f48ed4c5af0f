"""What each model family accepts: dated data with a source. A model in no family is unknown.

Levels are what the vendor lists; the default is what the vendor uses when nothing is sent, or
`None` where it is not documented, and then nothing is ever sent.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from budgetguard.efforts.scale import Effort

CHECKED: Final = "2026-11-20"
"""When the facts were last compared with their sources."""

_PROFILES: Final = "model profiles of langchain-openai 1.7 and langchain-anthropic 1.7 (models.dev)"
_OPENAI_TOOLS: Final = "400s of the real API: livekit#7169, litellm#34569"
_ANTHROPIC: Final = "platform.claude.com/docs, extended thinking and effort"


@dataclass(frozen=True, slots=True)
class Family:
    """What some models have in common."""

    pattern: str
    """Regular expression for the whole model name, without its date."""
    levels: tuple[Effort, ...] = ()
    """The effort levels the vendor lists; empty: there is no effort to set."""
    default: Effort | None = None
    """The effort when none is sent; `None`: not documented."""
    thinks: Literal["always", "asked", "never"] = "never"
    """Whether it reasons before it answers: unless told not to, when asked to, or never."""
    max_output: int | None = None
    """The most output tokens of one call, reasoning included."""
    effort_with_tools: bool = True
    """Whether an effort other than `none` may go with function tools on Chat Completions."""
    source: str = _PROFILES


_HIGH: Final[tuple[Effort, ...]] = ("low", "medium", "high")
_XHIGH: Final[tuple[Effort, ...]] = ("none", *_HIGH, "xhigh")
_CLAUDE: Final[tuple[Effort, ...]] = (*_HIGH, "xhigh", "max")

_NO_TOOLS: Final[dict[str, Any]] = {"effort_with_tools": False, "source": _OPENAI_TOOLS}

FAMILIES: Final = (
    Family(r"gpt-4o(-mini)?", max_output=16_384),
    Family(r"gpt-4\.1(-mini|-nano)?", max_output=32_768),
    Family(r"o1|o3|o3-mini|o4-mini", _HIGH, "medium", "always", 100_000),
    Family(r"gpt-5(-mini|-nano)?", ("minimal", *_HIGH), "medium", "always", 128_000),
    Family(r"gpt-5\.1", ("none", *_HIGH), "none", "asked", 128_000),
    Family(r"gpt-5\.2", _XHIGH, "none", "asked", 128_000),
    Family(r"gpt-5\.4(-mini|-nano)?", _XHIGH, "none", "asked", 128_000, **_NO_TOOLS),
    Family(r"gpt-5\.5", _XHIGH, "medium", "always", 128_000, **_NO_TOOLS),
    Family(
        r"gpt-5\.6(-luna|-sol|-terra)?", (*_XHIGH, "max"), "medium", "always", 128_000, **_NO_TOOLS
    ),
    Family(r"claude-3-7-sonnet", thinks="asked", max_output=64_000, source=_ANTHROPIC),
    Family(r"claude-sonnet-4(-0|-5)?|claude-haiku-4-5", thinks="asked", max_output=64_000),
    Family(r"claude-opus-4(-0|-1)?", thinks="asked", max_output=32_000, source=_ANTHROPIC),
    Family(r"claude-opus-4-5", _HIGH, "high", "asked", 64_000),
    Family(r"claude-(opus|sonnet)-4-6", (*_HIGH, "max"), "high", "asked", 128_000),
    Family(r"claude-opus-4-[78]", _CLAUDE, "high", "asked", 128_000),
    Family(r"claude-(sonnet-5(-5)?|opus-5|fable-5(-1)?)", _CLAUDE, "high", "always", 128_000),
    Family(r"claude-opus-5-5", _CLAUDE, "medium", "always", 128_000),
)
"""Every family that is known."""

UNKNOWN: Final = Family("", source="")
"""A model of which nothing is known: nothing is sent to it but the output cap."""

_DATE: Final = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|latest)$")
_COMPILED: Final = [(re.compile(family.pattern), family) for family in FAMILIES]


@functools.lru_cache(maxsize=1024)
def family_of(model: str) -> Family:
    """The family of a model, its date ignored; `UNKNOWN` for a name in no family."""
    name = _DATE.sub("", model)
    return next((family for pattern, family in _COMPILED if pattern.fullmatch(name)), UNKNOWN)
