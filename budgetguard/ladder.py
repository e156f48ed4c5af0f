"""Which model a call uses, and at which price: the caller's, or a cheaper rung of the ladder."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from budgetguard.errors import UnpricedModelError
from budgetguard.pricing import Rates, highest_rates, rates
from budgetguard.spend import USD

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


def choose(scope: Scope, call: Call, plan: Plan) -> Choice:
    """The model that the plan allows; rung numbers refer to the innermost scope with a ladder.

    Raises:
        UnpricedModelError: If a usd limit answers and the model has no price.
    """
    own = _priced(scope, call, call.model, 0)
    if not plan.rung:
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
    return Choice(model, price, price.dearest(call.input_tokens) if price else (0, 0), rung)


def _price(scope: Scope, model: str, provider: str | None) -> Rates | None:
    if scope.lineage.has_prices:
        for each in reversed(scope.lineage.answering):
            if model in each.budget.prices:
                return rates(model, provider, prices=each.budget.prices)
    price = rates(model, provider)
    if price is not None:
        return price
    for each in scope.lineage.answering:
        if any(meter == USD for meter, _ in each.budget.held_limits):
            if each.budget.unpriced == "refuse":
                raise UnpricedModelError(model, each.budget.name)
            price = highest_rates(provider)
    return price


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
