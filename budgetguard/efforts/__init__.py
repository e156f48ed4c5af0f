"""Reasoning effort: one scale, dated facts per model family, one translation per dialect."""

from budgetguard.efforts.scale import EFFORTS, Effort

__all__ = ["EFFORTS", "Effort"]
