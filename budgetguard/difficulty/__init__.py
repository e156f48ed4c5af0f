"""How hard a task is, as far as anyone knows; an estimator may say that it does not know."""

from budgetguard.difficulty.estimate import UNKNOWN, Difficulty, Estimator, Task
from budgetguard.difficulty.estimation import NOTHING_TO_ASK, Estimation

__all__ = ["NOTHING_TO_ASK", "UNKNOWN", "Difficulty", "Estimation", "Estimator", "Task"]
