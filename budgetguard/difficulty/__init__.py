"""How hard a task is, as far as anyone knows; an estimator may say that it does not know."""

from budgetguard.difficulty.estimate import UNKNOWN, Difficulty, Estimator, Task
from budgetguard.difficulty.estimation import Estimation

__all__ = ["UNKNOWN", "Difficulty", "Estimation", "Estimator", "Task"]
