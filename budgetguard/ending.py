"""Ending: how a budget ends, found by asking its policy once with everything spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from budgetguard.call import Call
from budgetguard.policy import planned
from budgetguard.spend import TURNS, at_meters
from budgetguard.state import State

if TYPE_CHECKING:
    from budgetguard.budget import Budget
    from budgetguard.plan import End


class Ending(NamedTuple):
    """How a budget ends."""

    owes_last_call: bool
    """Whether an agent loop is owed one last call before the end."""
    end: End
    """What comes after it; a policy that names nothing fails."""


def ending_of(budget: Budget) -> Ending:
    """Ask with a State in which every limited meter is fully spent and difficulty is unknown.

    A Budget is frozen, so it is asked once and remembers the answer.
    """
    if budget.ending is None:
        plan = planned(_exhausted(budget))
        object.__setattr__(budget, "ending", Ending(plan.final, plan.end or "fail"))
        assert budget.ending is not None  # noqa: S101 -- just set
    return budget.ending


def _exhausted(budget: Budget) -> State:
    settled = at_meters(budget.held_limits)
    elapsed = budget.seconds or 0.0
    return State(budget, Call(), settled=settled, elapsed=elapsed, turn=settled[TURNS] + 1)
