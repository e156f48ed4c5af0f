"""Policies: callables `State -> Plan`, and the algebra that composes them.

A Policy adds up with `+` (the Plans are met), a Condition is three-valued, and `when` joins the
two. All of them are frozen values, so a Budget with a policy pickles and compares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from budgetguard.efforts.scale import as_effort, one_less
from budgetguard.plan import EMPTY, Plan
from budgetguard.state import State

if TYPE_CHECKING:
    from budgetguard.budget import Stakes


NEVER: Final = 2.0
"""A fraction that no meter reaches before it is refused by far: such a rule does not fire."""


class Condition:
    """A question about the State with three answers: True, False, and None for "unknown".

    Compose with `&`, `|` and `~` (Kleene logic). A plain callable `State -> bool | None` is
    accepted wherever a Condition is.
    """

    __slots__ = ()

    lowers_by_difficulty = False
    """Whether it fires because a task is easy; high stakes keep what such a rule would lower."""

    quiet_below = 0.0
    """While difficulty is unknown it cannot be True before some meter is this full (a fraction)."""

    def __call__(self, state: State) -> bool | None:
        """The answer for that State; `None` for unknown."""
        raise NotImplementedError

    def __and__(self, other: AnyCondition) -> Condition:
        return _And(self, _condition(other))

    def __rand__(self, other: AnyCondition) -> Condition:
        return _And(_condition(other), self)

    def __or__(self, other: AnyCondition) -> Condition:
        return _Or(self, _condition(other))

    def __ror__(self, other: AnyCondition) -> Condition:
        return _Or(_condition(other), self)

    def __invert__(self) -> Condition:
        return _Not(self)

    def __bool__(self) -> bool:
        msg = "a condition has no truth value before it sees a State: use & | ~, not and or not"
        raise TypeError(msg)


AnyCondition = Condition | Callable[[State], bool | None]


@dataclass(frozen=True, slots=True)
class _Pair(Condition):
    left: AnyCondition
    right: AnyCondition

    @property
    def lowers_by_difficulty(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _by_difficulty(self.left) or _by_difficulty(self.right)


@dataclass(frozen=True, slots=True)
class _And(_Pair):
    @property
    def quiet_below(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return max(quiet_below(self.left), quiet_below(self.right))

    def __call__(self, state: State) -> bool | None:
        left = self.left(state)
        if left is not None and not left:
            return False
        right = self.right(state)
        if right is not None and not right:
            return False
        return None if left is None or right is None else True


@dataclass(frozen=True, slots=True)
class _Or(_Pair):
    @property
    def quiet_below(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min(quiet_below(self.left), quiet_below(self.right))

    def __call__(self, state: State) -> bool | None:
        left = self.left(state)
        if left:
            return True
        right = self.right(state)
        if right:
            return True
        return None if left is None or right is None else False


@dataclass(frozen=True, slots=True)
class _Not(Condition):
    inner: AnyCondition

    def __call__(self, state: State) -> bool | None:
        answer = self.inner(state)
        return None if answer is None else not answer


class Policy:
    """Decides what the next call may do. `a + b` asks both and takes the stricter Plan.

    Any callable `State -> Plan` is a policy; this class adds the `+`.
    """

    __slots__ = ()

    quiet_below = 0.0
    """While difficulty is unknown it says nothing before some meter is this full (a fraction)."""

    def __call__(self, state: State) -> Plan:
        """What the call may do in that State."""
        raise NotImplementedError

    def __add__(self, other: AnyPolicy) -> Policy:
        return _Sum((*_parts(self), *_parts(other)))

    def __radd__(self, other: AnyPolicy) -> Policy:
        return _Sum((*_parts(other), *_parts(self)))


AnyPolicy = Policy | Callable[[State], Plan]


@dataclass(frozen=True, slots=True)
class Always(Policy):
    """The same Plan in every State: what `effort("low")`, `finish()` and the like return."""

    plan: Plan

    def __call__(self, state: State) -> Plan:  # noqa: ARG002 -- the protocol's one argument
        """The Plan."""
        return self.plan


@dataclass(frozen=True, slots=True)
class _Sum(Policy):
    parts: tuple[AnyPolicy, ...]

    @property
    def quiet_below(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min((quiet_below(part) for part in self.parts), default=NEVER)

    def __call__(self, state: State) -> Plan:
        plan = EMPTY
        for part in self.parts:
            said = part(state)
            if said is not EMPTY:
                plan = plan & said
        return plan


@dataclass(frozen=True, slots=True)
class _When(Policy):
    condition: AnyCondition
    then: AnyPolicy

    @property
    def quiet_below(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return max(quiet_below(self.condition), quiet_below(self.then))

    def __call__(self, state: State) -> Plan:
        if not self.condition(state):
            return EMPTY
        plan = self.then(state)
        if plan.effort is None or state.stakes == "normal":
            return plan
        return _weigh(plan, state.stakes, by_difficulty=_by_difficulty(self.condition))


def when(condition: AnyCondition, *then: AnyPolicy) -> Policy:
    """Ask `then` (their Plans are met) only where `condition` is True; unknown does not fire.

    Raises:
        TypeError: If the condition or a policy is not callable, as in `when(a and b)`.
    """
    if not then:
        msg = "when(condition, ...) needs at least one action, such as finish()"
        raise TypeError(msg)
    for each in then:
        check_policy(each, name="when(..., action)")
    action = then[0] if len(then) == 1 else _Sum(then)
    return _When(_condition(condition), action)


def planned(state: State) -> Plan:
    """What the policy of the State's budget says in it.

    Raises:
        TypeError: If it returns something that is not a Plan.
    """
    plan = state.budget.rules(state)
    if type(plan) is not Plan:
        msg = f"the policy of budget {state.budget.name!r} must return a Plan, not {plan!r}"
        raise TypeError(msg)
    if plan is not EMPTY:
        _check_plan(plan, state.budget.name)
    return plan


def _check_plan(plan: Plan, budget: str) -> None:
    """Raise `ValueError` for a Plan that a policy of a user's own made up wrongly."""
    if plan.effort is not None:
        as_effort(plan.effort, name=f"Plan.effort of budget {budget!r}")
    if plan.rung < 0 or min(plan.max_output_tokens or 1, plan.thinking_tokens or 0) < 0:
        msg = f"the policy of budget {budget!r} returned a Plan with a negative number: {plan}"
        raise ValueError(msg)


def check_policy(policy: object, *, name: str = "policy") -> None:
    """Raise `TypeError` unless `policy` can be asked `State -> Plan`."""
    if isinstance(policy, Condition):
        msg = f"{name} is a condition; join it with an action: when(condition, action)"
        raise TypeError(msg)
    if not callable(policy):
        msg = f"{name} must be a callable State -> Plan, not {policy!r}"
        raise TypeError(msg)


def quiet_below(rule: AnyCondition | AnyPolicy) -> float:
    """How full the fullest meter must at least be for `rule` to fire; 0 where nobody can tell."""
    return float(getattr(rule, "quiet_below", 0.0))


def _condition(value: object) -> AnyCondition:
    if isinstance(value, Policy) or not callable(value):
        msg = f"condition must be a callable State -> bool | None, not {value!r}; use & | ~"
        raise TypeError(msg)
    return cast("AnyCondition", value)


def _by_difficulty(condition: AnyCondition) -> bool:
    return bool(getattr(condition, "lowers_by_difficulty", False))


def _parts(policy: AnyPolicy) -> tuple[AnyPolicy, ...]:
    check_policy(policy)
    return policy.parts if isinstance(policy, _Sum) else (policy,)


def _weigh(plan: Plan, stakes: Stakes, *, by_difficulty: bool) -> Plan:
    """Low stakes lower one level more; high stakes keep what difficulty would lower."""
    level = plan.effort
    if stakes == "low" and level is not None:
        level = one_less(level)
    elif by_difficulty:
        level = None
    return Plan(
        level, plan.thinking_tokens, plan.max_output_tokens, plan.rung, plan.final, plan.end
    )
