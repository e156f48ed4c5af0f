"""From a Plan to what a provider is sent: values only; adapters know the names of the fields.

Nothing here ever raises what the caller set, turns thinking on, or sends a level that the model
does not list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from budgetguard.efforts.scale import EFFORTS, at_most, is_lower

if TYPE_CHECKING:
    from budgetguard.efforts.facts import Family
    from budgetguard.efforts.scale import Effort
    from budgetguard.plan import Plan

LEAST_THINKING: Final = 1_024
"""The smallest `budget_tokens` Anthropic accepts (platform.claude.com/docs, extended thinking)."""

ANSWER_HEADROOM: Final = 512
"""Output tokens that a thinking budget leaves for the answer."""


class Asked(NamedTuple):
    """What the caller asked for."""

    family: Family
    effort: Effort | None = None
    """The effort the caller set; `None`: the vendor's default."""
    thinks: bool = False
    """Whether the model will think before it answers."""
    thinking_tokens: int | None = None
    """The thinking budget the caller set; `None`: none."""
    max_output_tokens: int | None = None
    """The output cap the caller set, or its client sends anyway."""
    tools: bool = False


class Steering(NamedTuple):
    """What to change about a request; `None` and False leave it as it is."""

    effort: Effort | None = None
    max_output_tokens: int | None = None
    thinking_tokens: int | None = None
    """A smaller thinking budget; 0 turns thinking off."""
    tools_off: bool = False


def settable(asked: Asked) -> tuple[Effort, ...]:
    """The efforts that can be set on a call: a thinking budget can follow any level."""
    return _levels(asked) if asked.thinking_tokens is None else EFFORTS


def openai_chat(plan: Plan, asked: Asked) -> Steering:
    """Steer a Chat Completions request; its output cap includes reasoning."""
    return Steering(_effort(plan, asked), _cap(plan, asked), None, plan.final and asked.tools)


def anthropic(plan: Plan, asked: Asked) -> Steering:
    """Steer a Messages request: `budget_tokens` in [1024, max_tokens - headroom], else off."""
    cap = _cap(plan, asked)
    thinking = _thinking(plan, asked, cap or asked.max_output_tokens)
    return Steering(_effort(plan, asked), cap, thinking, plan.final and asked.tools)


def _effort(plan: Plan, asked: Asked) -> Effort | None:
    """min(what the caller set, else the vendor's default; the Plan's), if that changes anything."""
    now = asked.effort or asked.family.default
    if now is None or plan.effort is None or not is_lower(plan.effort, now):
        return None
    level = at_most(plan.effort, _levels(asked))
    return level if level is not None and is_lower(level, now) else None


def _levels(asked: Asked) -> tuple[Effort, ...]:
    """The levels that go with this call; with tools, some models take no effort but `none`."""
    levels = asked.family.levels
    if asked.tools and not asked.family.effort_with_tools:
        return tuple(level for level in levels if level == "none")
    return levels


def _cap(plan: Plan, asked: Asked) -> int | None:
    cap = plan.max_output_tokens
    if cap is None or (asked.max_output_tokens is not None and cap >= asked.max_output_tokens):
        return None
    return cap


def _thinking(plan: Plan, asked: Asked, cap: int | None) -> int | None:
    budget = asked.thinking_tokens
    if budget is None:
        return None
    allowed = budget
    if plan.thinking_tokens is not None:
        allowed = min(allowed, plan.thinking_tokens)
    if cap is not None:
        allowed = min(allowed, cap - ANSWER_HEADROOM)
    if allowed >= budget:
        return None
    return allowed if allowed >= LEAST_THINKING else 0
