"""What a token costs: the user's own prices first, then the price library, then nothing.

A limit in dollars holds only if the hold before a call is never below the charge after it, and if
a model without a known price is refused instead of counted as free. The invariant, for every model,
size and split of the cache tokens: `charge(...) <= worst(...)`. Prices are US dollars per million
tokens; rates are integer pico-dollars (1e-12) per token, the same number times 10**6, finer prices
rounded up; money is integer nano-dollars (1e-9).

Only this module imports `genai_prices`, on the first lookup (it takes 0.3 s to load), and reads its
bundled data; nothing is fetched. Not known here: service tiers (flex, priority, batch), audio and
image tokens, server-side tools such as web search. All tokens are priced as standard text.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Context, Decimal
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

    from budgetguard.price import Price

    Listed: TypeAlias = Decimal | TieredPrices | None

_UP: Final = Context(prec=60, rounding=ROUND_CEILING)
_DAY: Final = 86_400
_NOTHING: Final = Decimal(0)
_QUARTERS: Final = [timedelta(minutes=15 * n) for n in range(96)]


class Step(NamedTuple):
    """The rates of a call with more than `start` input tokens, in pico-dollars per token."""

    start: int
    input: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    output: int


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of one model, ready for arithmetic in integers."""

    model: str
    """The name under which the price is listed."""
    source: str
    """Where the price comes from: `"user"`, `"genai-prices 0.2.3"`, ..."""
    checked: str | None
    """The ISO date of the price; `None` when the source does not say."""
    request: int
    """Nano-dollars per call on top of its tokens; 0 for nearly every model."""
    steps: tuple[Step, ...]
    """The long-context tiers, smallest first; the first starts below zero."""
    ceilings: tuple[tuple[int, int], ...]
    """Per step, the dearest input and output rate of it and of all before it."""

    def dearest(self, input_tokens: int) -> tuple[int, int]:
        """The dearest input and output rate that a call of at most `input_tokens` can meet.

        In pico-dollars per token. Covers a prompt written to the cache in full for the usual five
        minutes. Writes for an hour are charged truthfully and not held for: that would double every
        hold for the few who ask for it.
        """
        return self.ceilings[self._index(input_tokens)]

    def worst(self, *, input_tokens: int, output_tokens: int) -> int:
        """The most that a call of at most these tokens can cost, in nano-dollars: what to hold."""
        per_input, per_output = self.dearest(input_tokens)
        return _nano(input_tokens * per_input + output_tokens * per_output) + self.request

    def charge(
        self,
        *,
        input_tokens: int,
        output_tokens: int,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        cache_write_1h_tokens: int = 0,
    ) -> int:
        """What a call cost, in nano-dollars, rounded up once.

        `input_tokens` includes what was read from and written to the cache, `cache_write_tokens`
        includes `cache_write_1h_tokens`; a bill that contradicts this is read as if the sum of the
        parts were the total. A tier applies to all of a call whose input exceeds its start. A price
        that depends on the time of day is charged at the dearest hour of the day.

        Raises:
            ValueError: a count is negative.
        """
        if not (cache_read_tokens or cache_write_tokens) and len(self.steps) == 1:
            step = self.steps[0]
            if input_tokens >= 0 and output_tokens >= 0:
                pico = input_tokens * step.input + output_tokens * step.output
                return self.request - (-pico // 1000)
        read, written, lasting = cache_read_tokens, cache_write_tokens, cache_write_1h_tokens
        if min(input_tokens, output_tokens, read, written, lasting) < 0:
            raise ValueError("a number of tokens cannot be negative")
        written = max(written, lasting)
        total = max(input_tokens, read + written)
        step = self.steps[self._index(total)]
        return self.request + _nano(
            (total - read - written) * step.input
            + read * step.cache_read
            + (written - lasting) * step.cache_write
            + lasting * step.cache_write_1h
            + output_tokens * step.output
        )

    def _index(self, input_tokens: int) -> int:
        index = len(self.steps) - 1
        while index and input_tokens <= self.steps[index].start:
            index -= 1
        return index


def rates(
    model: str, provider: str | None = None, *, prices: Mapping[str, Price] | None = None
) -> Rates | None:
    """Find the rates of a model: in your `prices` by its exact name, then in the library.

    The library is asked for the model at this provider, or else at the provider whose names look
    like this one; dated names and aliases are its business. A name that spells out a provider
    (`"openai/gpt-4o"`) is then looked up there. `None`, never zero, when the provider is unknown (a
    private gateway), or the model is, or its input or output has no price (embeddings, ":free"
    listings, subscriptions): say in `prices` what those cost.

    What the library says is kept for the 1024 names last used, until the UTC date changes.
    """
    if prices and model in prices:
        return _written(model, prices[model])
    return _listed(model, provider, int(time.time() // _DAY))


def highest_rates(provider: str | None = None) -> Rates:
    """The dearest rates of all chat models the library lists for a provider, else of all it lists.

    Input and output may be those of different models. For a budget that would rather overestimate
    an unpriced model than refuse it (`unpriced="highest"`); `source` says which models were meant.
    """
    return _highest(provider, int(time.time() // _DAY))


@lru_cache(maxsize=1024)
def _written(model: str, price: Price) -> Rates:
    fresh = _pico(price.input)
    read = fresh if price.cache_read is None else _pico(price.cache_read)
    write = fresh if price.cache_write is None else _pico(price.cache_write)
    step = Step(-1, fresh, read, write, write, _pico(price.output))
    return Rates(model, price.source, price.checked, 0, (step,), _ceilings([step]))


@lru_cache(maxsize=1024)
def _listed(model: str, provider: str | None, day: int) -> Rates | None:
    found = _find(model.removeprefix("models/"), _known_as(provider))
    variants = _chat_prices(found, day) if found else []
    return _merged(found.id, variants) if found and variants else None


@lru_cache(maxsize=64)
def _highest(provider: str | None, day: int) -> Rates:
    from genai_prices.data_snapshot import find_provider_by_id, get_snapshot  # noqa: PLC0415

    everybody = get_snapshot().providers
    asked = _known_as(provider)
    entry = find_provider_by_id(everybody, asked) if asked else None
    sellers = {entry.id, *(entry.fallback_model_providers or ())} if entry else None
    models = [model for p in everybody if not sellers or p.id in sellers for model in p.models]
    variants = [price for model in models for price in _chat_prices(model, day)]
    if entry and not variants:  # it sells no chat model
        return _highest(None, day)
    name = f"dearest of {entry.id if entry else 'all providers'}"
    return _merged(name, variants, note=f", {name}")


def _find(model: str, provider: str | None) -> ModelInfo | None:
    from genai_prices.data_snapshot import find_provider_by_id, get_snapshot  # noqa: PLC0415

    snapshot = get_snapshot()
    with suppress(LookupError):
        return snapshot.find_provider_model(model, None, provider, None)[1]
    if provider and not find_provider_by_id(snapshot.providers, provider):
        return None  # a gateway may resell at any price
    vendor, _, name = model.partition("/")
    if name and any(entry.id == vendor for entry in snapshot.providers):
        with suppress(LookupError):
            return snapshot.find_provider_model(name, None, vendor, None)[1]
    return None


def _known_as(provider: str | None) -> str | None:
    # The library takes every name with "openai" in it for OpenAI, "azure_openai" too.
    return "azure" if provider and "azure" in provider.lower() else provider or None


def _chat_prices(model: ModelInfo, day: int) -> list[ModelPrice]:
    """Every price that applies at some time of this UTC day; none if one of them is incomplete."""
    midnight = datetime.fromtimestamp(day * _DAY, UTC)
    of_day = [model.get_prices(midnight + passed) for passed in _QUARTERS if model.prices]
    distinct = list({id(price): price for price in of_day}.values())
    complete = all(p.input_mtok is not None and p.output_mtok is not None for p in distinct)
    return distinct if complete else []


def _merged(model: str, variants: list[ModelPrice], *, note: str = "") -> Rates:
    """Rates that are nowhere below any of these prices, and equal to a single one."""
    import genai_prices  # noqa: PLC0415
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415

    listed = [value for price in variants for value in vars(price).values()]
    starts = sorted({-1, *(tier.start for value in listed for tier in getattr(value, "tiers", ()))})
    rows = [zip(*(_step(start, price) for price in variants), strict=True) for start in starts]
    steps = [Step(*map(max, row)) for row in rows]
    request = max(_pico(_above(-1, price.requests_kcount)) for price in variants)
    snapshot = get_snapshot()
    checked = snapshot.timestamp.date().isoformat() if snapshot.from_auto_update else None
    source = f"genai-prices {genai_prices.__version__}{note}"
    return Rates(model, source, checked, request, tuple(steps), _ceilings(steps))


def _step(start: int, price: ModelPrice) -> Step:
    fresh = _above(start, price.input_mtok)
    # What has no price of its own is priced as what contains it, as the library does.
    read = _above(start, price.cache_read_mtok, fresh)
    write = _above(start, price.cache_write_mtok, fresh)
    write_1h = _above(start, price.cache_write_1h_mtok, write)
    answer = _above(start, price.output_mtok)
    # Thinking is not told apart from the answer: where it has a price, the dearer one counts.
    output = max(answer, _above(start, price.output_reasoning_mtok))
    return Step(start, _pico(fresh), _pico(read), _pico(write), _pico(write_1h), _pico(output))


def _above(start: int, price: Listed, missing: Decimal = _NOTHING) -> Decimal:
    """The price for a call of more than `start` input tokens, up to the next tier."""
    if price is None or isinstance(price, Decimal):
        return missing if price is None else price
    reached = [tier.price for tier in price.tiers if tier.start <= start]
    return reached[-1] if reached else price.base


def _ceilings(steps: list[Step]) -> tuple[tuple[int, int], ...]:
    inputs = accumulate((max(s.input, s.cache_read, s.cache_write) for s in steps), max)
    return tuple(zip(inputs, accumulate((s.output for s in steps), max), strict=True))


def _pico(dollars: Decimal) -> int:
    """Dollars per million, in millionths of a dollar per million; every digit lost rounds up."""
    return int(_UP.to_integral_value(_UP.multiply(dollars, Decimal(1_000_000))))


def _nano(pico: int) -> int:
    return -(-pico // 1000)
