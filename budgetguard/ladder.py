"""Which model a call uses, and at which price: the caller's, or a cheaper rung of the ladder."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from budgetguard.efforts.facts import UNKNOWN, family_of
from budgetguard.efforts.scale import lower
from budgetguard.errors import UnpricedModelError
from budgetguard.pricing import Rates, highest_rates, rates

if TYPE_CHECKING:
    from budgetguard.call import Call
    from budgetguard.plan import Plan
    from budgetguard.scope import Scope


class Choice(NamedTuple):
    """A model, its price, and where it stands on the ladder."""

    model: str
    price: Rates | None
    rates: tuple[int, int]
    """Pico-dollars per input and per output token, the dearest that can apply; 0 if unpriced."""
    rung: int
    call: Call
    """The call as that model sees it."""


def choose(scope: Scope, call: Call, plan: Plan) -> Choice:
    """The model that the plan allows; rung numbers refer to the innermost scope with a ladder.

    Raises:
        UnpricedModelError: If a usd limit answers and the model has no price.
    """
    own = _priced(scope, call, call.model, 0)
    if not plan.rung or not call.can_change_model:
        return own
    ladder = next(
        (each.budget.ladder for each in reversed(scope.lineage.answering) if each.budget.ladder), ()
    )
    for rung in range(min(plan.rung, len(ladder)), len(ladder) + 1) if ladder else ():
        cheaper = _priced(scope, call, ladder[rung - 1], rung)
        if _is_cheaper(cheaper, own, call):
            return cheaper
    return own


def _priced(scope: Scope, call: Call, model: str, rung: int) -> Choice:
    price = _price(scope, model, call.provider)
    seen = call if rung == 0 else _seen_by(model, call)
    return Choice(model, price, price.dearest(call.input_tokens) if price else (0, 0), rung, seen)


def _seen_by(model: str, call: Call) -> Call:
    """What a call asks of another model: its maximum, and its own way of thinking."""
    family = family_of(model)
    if family is UNKNOWN:
        return call
    return call._replace(
        model=model,
        effort=family.default if call.effort is None else lower(call.effort, family.default),
        levels=family.levels,
        thinks=family.thinks == "always",
        thinking_tokens=None,
        model_max_output=family.max_output,
    )


def _price(scope: Scope, model: str, provider: str | None) -> Rates | None:
    if scope.lineage.has_prices:
        for each in reversed(scope.lineage.billed):
            if model in each.budget.prices:
                return rates(model, provider, prices=each.budget.prices)
    price = rates(model, provider)
    if price is not None:
        return price
    limited = [each for each in scope.lineage.billed if each.budget.usd is not None]
    for each in limited:
        if each.budget.unpriced == "refuse" and each in scope.lineage.answering:
            raise UnpricedModelError(model, each.budget.name)
    return highest_rates(provider) if limited else None


def _is_cheaper(rung: Choice, own: Choice, call: Call) -> bool:
    """Whether a typical call costs less there; where a price is unknown the ladder is believed."""
    if rung.model == own.model:
        return False
    if rung.price is None or own.price is None:
        return True
    sent, received = call.input_tokens or 1, call.max_output_tokens or 500
    there, here = (
        each.worst(input_tokens=sent, output_tokens=received) for each in (rung.price, own.price)
    )
    return there < here
