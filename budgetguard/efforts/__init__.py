"""Reasoning effort: one scale, dated facts per model family, and how a Plan steers a request."""

from budgetguard.efforts.facts import FAMILIES, Family, family_of
from budgetguard.efforts.scale import EFFORTS, Effort
from budgetguard.efforts.steering import Asked, Steering, anthropic, openai_chat

__all__ = [
    "EFFORTS",
    "FAMILIES",
    "Asked",
    "Effort",
    "Family",
    "Steering",
    "anthropic",
    "family_of",
    "openai_chat",
]
