"""User code as the type checkers must accept it: pyright strict and mypy strict."""

import budgetguard

version: str = budgetguard.__version__
