"""Holds are never below charges, charges are the price library's, and nothing unknown is free."""

import math
import pickle
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from genai_prices import Usage, types
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import pricing
from budgetguard.price import Price, price_of
from budgetguard.pricing import Rates, highest_rates, rates

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SIZES = (0, 1, 999, 100_000, 100_001, 128_000, 200_000, 200_001, 272_000, 272_001, 1_048_577)


@pytest.fixture(autouse=True)
def _fresh_caches():
    yield
    set_custom_snapshot(None)
    pricing._listed.cache_clear()
    pricing._highest.cache_clear()


def at(monkeypatch, moment):
    monkeypatch.setattr(pricing.time, "time", moment.timestamp)


def listing(*models):
    """Replace the library's data by one provider with these models: (name, prices)."""
    entries = [
        types.ModelInfo(id=name, match=types.ClauseEquals(equals=name), prices=prices)
        for name, prices in models
    ]
    match = types.ClauseStartsWith(starts_with="acme")
    seller = types.Provider(
        id="acme", name="Acme", api_pattern="acme", model_match=match, models=entries
    )
    set_custom_snapshot(DataSnapshot(providers=[seller], from_auto_update=False))


def mtok(input_price, output_price, **others):
    prices = {"input_mtok": input_price, "output_mtok": output_price, **others}
    return types.ModelPrice(
        **{key: Decimal(p) if isinstance(p, str) else p for key, p in prices.items()}
    )


def every_model():
    for provider in get_snapshot().providers:
        for model in provider.models:
            if found := rates(model.id, provider.id):
                yield provider, model, found


# ---- what users write


def test_a_price_is_dollars_per_million_tokens_and_a_float_means_what_it_shows():
    price = Price(input="1.25", output=10, cache_read=0.1)
    assert (price.input, price.output, price.cache_read) == (
        Decimal("1.25"),
        Decimal(10),
        Decimal("0.1"),
    )
    assert (price.cache_write, price.source, price.checked) == (None, "user", None)


def test_a_mapping_is_a_price_too():
    assert price_of({"input": "1", "output": "2"}) == Price(input=1, output=2)
    assert price_of(Price(input=1, output=2)) == Price(input=1, output=2)


def test_a_price_pickles_and_is_equal_afterwards():
    price = Price(input="1", output="2", checked="2026-11-20")
    assert pickle.loads(pickle.dumps(price)) == price


@pytest.mark.parametrize("amount", ["-1", "NaN", "inf", "free", -0.5, float("nan"), 1_000_001])
def test_an_amount_that_cannot_be_a_price_is_refused_by_name(amount):
    with pytest.raises(ValueError, match="output"):
        Price(input=1, output=amount)
    with pytest.raises(ValueError, match="cache_read"):
        price_of({"input": 1, "output": 1, "cache_read": amount})


@pytest.mark.parametrize("amount", [True, None, [1], b"1", 1j])
def test_what_is_not_a_number_is_a_type_error(amount):
    with pytest.raises(TypeError, match="input"):
        Price(input=amount, output=1)


@pytest.mark.parametrize("value", [3, "1", None, {"input": 1}, {"input": 1, "output": 1, "in": 1}])
def test_what_is_not_a_price_is_a_type_error(value):
    with pytest.raises(TypeError):
        price_of(value)


def test_a_date_that_is_none_is_refused():
    with pytest.raises(ValueError, match="isoformat"):
        Price(input=1, output=1, checked="yesterday")


# ---- whose price


def test_the_users_price_comes_first_and_only_under_its_exact_name():
    mine = {"gpt-4o": Price(input="1", output="2", source="contract", checked="2026-11-01")}
    found = rates("gpt-4o", "openai", prices=mine)
    assert found is not None
    assert (found.dearest(10), found.source, found.checked) == (
        (1_000_000, 2_000_000),
        "contract",
        "2026-11-01",
    )
    other = rates("gpt-4o-2024-08-06", "openai", prices=mine)
    assert other is not None
    assert other.source.startswith("genai-prices ")


def test_a_free_local_model_is_free_because_the_user_said_so():
    found = rates("llama3", "ollama", prices={"llama3": Price(input=0, output=0)})
    assert found is not None
    assert found.charge(input_tokens=9_999, output_tokens=9_999) == 0


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", None),
        ("gpt-4o", ""),
        ("gpt-4o", "openai"),
        ("gpt-4o-2024-08-06", "openai"),
        ("openai/gpt-4o", None),
        ("openai/gpt-4o", "openai"),
        ("openai/gpt-4o", "litellm"),
        ("gpt-4o", "azure_openai"),
    ],
)
def test_a_model_is_found_under_the_names_frameworks_use(model, provider):
    found = rates(model, provider)
    assert found is not None
    assert found.model == "gpt-4o"


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("claude-sonnet-4-5-20250929", "anthropic"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "amazon_bedrock"),
        ("claude-sonnet-4-5@20250929", "google_vertexai"),
        ("models/gemini-2.5-pro", "google_genai"),
        ("anthropic/claude-sonnet-4.5", "openrouter"),
    ],
)
def test_dated_prefixed_and_resold_names_are_found(model, provider):
    assert rates(model, provider) is not None


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "my-gateway"),
        ("openai/gpt-4o", "my-gateway"),
        ("llama3", "ollama"),
        ("llama3", None),
        ("my-deployment", "azure"),
        ("nobody/gpt-4o", None),
        ("text-embedding-3-small", "openai"),
        ("", None),
    ],
)
def test_what_is_unknown_or_not_a_chat_model_has_no_rates(model, provider):
    assert rates(model, provider) is None


@pytest.mark.parametrize("prices", [{}, {"input_mtok": Decimal(1)}, {"output_mtok": Decimal(1)}])
def test_a_listing_without_both_prices_is_unpriced_not_free(prices):
    listing(("acme-1", types.ModelPrice(**prices)))
    assert rates("acme-1") is None


def test_the_source_names_the_library_and_no_date_is_made_up():
    found = rates("gpt-4o")
    assert found is not None
    assert found.source.startswith("genai-prices 0.")
    assert found.checked is None


# ---- what a call costs


def test_money_is_exact_and_rounded_up_once_per_call():
    found = rates("m", prices={"m": Price(input="0.0001", output="0.0001")})
    assert found is not None
    assert found.dearest(1) == (100, 100)
    assert found.charge(input_tokens=1, output_tokens=0) == 1
    assert found.charge(input_tokens=6, output_tokens=5) == 2


def test_a_price_finer_than_a_pico_dollar_per_token_rounds_up():
    found = rates("m", prices={"m": Price(input="0.0000001", output="1e-400")})
    assert found is not None
    assert found.dearest(1) == (1, 1)


def test_cache_tokens_are_part_of_the_input():
    price = Price(input="10", output="0", cache_read="1", cache_write="12.5")
    found = rates("m", prices={"m": price})
    assert found is not None
    assert found.charge(
        input_tokens=100, output_tokens=0, cache_read_tokens=50, cache_write_tokens=20
    ) == (30 * 10_000 + 50 * 1_000 + 20 * 12_500)
    assert found.dearest(100) == (12_500_000, 0)


def test_cache_tokens_without_a_price_cost_what_input_costs():
    found = rates("m", prices={"m": Price(input="10", output="0")})
    assert found is not None
    assert found.charge(
        input_tokens=3, output_tokens=0, cache_read_tokens=1, cache_write_tokens=1
    ) == (30_000)


def test_a_bill_whose_parts_exceed_its_total_is_read_as_the_sum_of_its_parts():
    found = rates("m", prices={"m": Price(input="10", output="0", cache_read="1")})
    assert found is not None
    assert found.charge(input_tokens=5, output_tokens=0, cache_read_tokens=50) == 50_000


@pytest.mark.parametrize(
    "count",
    ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"],
)
def test_a_negative_count_is_refused(count):
    found = rates("gpt-4o")
    assert found is not None
    counts = {"input_tokens": 1, "output_tokens": 1, count: -1}
    with pytest.raises(ValueError, match="negative"):
        found.charge(**counts)


def test_a_long_context_tier_applies_to_the_whole_call_beyond_its_start():
    tiered = types.TieredPrices(base=Decimal(1), tiers=[types.Tier(start=100, price=Decimal(3))])
    listing(("acme-1", mtok(tiered, "2")))
    found = rates("acme-1")
    assert found is not None
    assert found.charge(input_tokens=100, output_tokens=0) == 100_000
    assert found.charge(input_tokens=101, output_tokens=0) == 303_000
    assert (found.dearest(100), found.dearest(101)) == (
        (1_000_000, 2_000_000),
        (3_000_000, 2_000_000),
    )


def test_a_tier_that_gets_cheaper_does_not_lower_the_hold():
    tiered = types.TieredPrices(base=Decimal(5), tiers=[types.Tier(start=100, price=Decimal(1))])
    listing(("acme-1", mtok(tiered, "2")))
    found = rates("acme-1")
    assert found is not None
    assert found.dearest(500) == (5_000_000, 2_000_000)


def test_a_price_per_request_is_in_the_charge_and_in_the_hold():
    listing(("acme-1", mtok("1", "2", requests_kcount="5")))
    found = rates("acme-1")
    assert found is not None
    assert found.charge(input_tokens=0, output_tokens=0) == 5_000_000
    assert found.worst(input_tokens=1_000, output_tokens=0) == 5_000_000 + 1_000_000


def test_an_hour_of_cache_costs_more_than_five_minutes():
    found = rates("claude-sonnet-4-5", "anthropic")
    assert found is not None
    short = found.charge(input_tokens=1_000, output_tokens=0, cache_write_tokens=1_000)
    long = found.charge(input_tokens=1_000, output_tokens=0, cache_write_1h_tokens=1_000)
    assert (short, long) == (3_750_000, 6_000_000)


# ---- prices that change


def changing(day):
    return [
        types.ConditionalPrice(prices=mtok("1", "1")),
        types.ConditionalPrice(types.StartDateConstraint(start_date=day), prices=mtok("7", "7")),
    ]


def test_a_price_changes_with_the_utc_date_although_it_was_cached(monkeypatch):
    listing(("acme-1", changing(date(2026, 11, 21))))
    seen = []
    for moment in (NOON, NOON.replace(hour=23, minute=59), NOON.replace(day=21, hour=0)):
        at(monkeypatch, moment)
        found = rates("acme-1")
        seen.append(found and found.dearest(1)[0])
    assert seen == [1_000_000, 1_000_000, 7_000_000]


@pytest.mark.parametrize("hour", [0, 12, 23])
def test_a_price_by_the_hour_is_held_and_charged_at_its_dearest(monkeypatch, hour):
    at(monkeypatch, NOON.replace(hour=hour))
    by_day = types.TimeOfDateConstraint(
        start_time=time(8, 30, tzinfo=UTC), end_time=time(9, tzinfo=UTC)
    )
    listing(
        (
            "acme-1",
            [
                types.ConditionalPrice(prices=mtok("1", "9")),
                types.ConditionalPrice(by_day, prices=mtok("4", "2")),
            ],
        )
    )
    found = rates("acme-1")
    assert found is not None
    assert found.dearest(1) == (4_000_000, 9_000_000)
    assert found.charge(input_tokens=1, output_tokens=1) == 13_000


# ---- the dearest


def test_the_highest_rates_are_never_below_any_model_of_the_provider():
    highest = highest_rates("anthropic")
    assert "dearest of anthropic" in highest.source
    for provider, _, found in every_model():
        if provider.id == "anthropic":
            for size in SIZES:
                assert all(
                    a <= b for a, b in zip(found.dearest(size), highest.dearest(size), strict=True)
                )


@pytest.mark.parametrize("provider", [None, "my-gateway", "voyageai"])
def test_without_a_known_provider_of_chat_models_the_whole_library_counts(provider):
    highest = highest_rates(provider)
    assert "dearest of all providers" in highest.source
    openai = highest_rates("openai").dearest(1_000)
    assert all(a >= b for a, b in zip(highest.dearest(1_000), openai, strict=True))


# ---- against the whole library


def test_charges_equal_those_of_the_library_to_the_nano_dollar(monkeypatch):
    at(monkeypatch, NOON)
    compared = 0
    for provider, model, found in every_model():
        if len(pricing._chat_prices(model, int(NOON.timestamp() // 86_400))) > 1:
            continue  # priced by the hour
        fine = any(
            price is not None and "." in f"{price * 1_000_000:f}".rstrip("0").rstrip(".")
            for price in vars(model.get_prices(NOON)).values()
            if not isinstance(price, types.TieredPrices)
        )
        for size in (1, 999, 200_001, 272_001):
            usage = {
                "input_tokens": size,
                "output_tokens": 345,
                "cache_read_tokens": size // 3,
                "cache_write_tokens": size // 5,
            }
            exact = model.calc_price(Usage(**usage), provider, genai_request_timestamp=NOON)
            theirs = math.ceil(exact.total_price * 10**9)
            ours = found.charge(**usage)
            assert theirs <= ours <= theirs + (size * fine), (provider.id, model.id, usage)
            compared += 1
    assert compared > 4_000


def test_no_split_of_any_call_of_any_model_costs_more_than_its_hold():
    for _, _, found in every_model():
        for size in SIZES:
            per_input, per_output = found.dearest(size)
            hold = found.worst(input_tokens=size, output_tokens=77)
            assert hold == found.request + -(-(size * per_input + 77 * per_output) // 1000)
            for read, written in ((0, 0), (size, 0), (0, size), (size // 3, size // 2)):
                cost = found.charge(
                    input_tokens=size,
                    output_tokens=77,
                    cache_read_tokens=read,
                    cache_write_tokens=written,
                )
                assert cost <= hold


amounts = st.decimals(min_value=0, max_value=1_000, places=9)


@given(
    price=st.builds(Price, input=amounts, output=amounts, cache_read=amounts, cache_write=amounts),
    parts=st.tuples(*[st.integers(0, 10**7)] * 3),
    output=st.integers(0, 10**6),
    spare=st.integers(0, 10**4),
)
def test_a_charge_never_exceeds_the_hold_of_a_call_at_least_as_large(price, parts, output, spare):
    found = rates("m", prices={"m": price})
    assert found is not None
    fresh, read, written = parts
    cost = found.charge(
        input_tokens=fresh + read + written,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )
    assert cost <= found.worst(input_tokens=sum(parts) + spare, output_tokens=output + spare)


# ---- how it behaves


def test_the_library_is_loaded_on_the_first_lookup_only():
    program = (
        "import sys; from budgetguard import pricing; assert 'genai_prices' not in sys.modules;"
        "pricing.rates('gpt-4o'); assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_lookup_needs_no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a lookup went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    pricing._listed.cache_clear()
    assert rates("gpt-4o") is not None


def test_the_cache_is_bounded():
    for n in range(1_100):
        rates("gpt-4o", prices={"gpt-4o": Price(input=n, output=1)})
        rates(f"nobody-{n}")
    assert pricing._written.cache_info().currsize == 1_024
    assert pricing._listed.cache_info().currsize == 1_024


def test_threads_get_the_same_rates():
    pricing._listed.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(rates, ["gpt-4o"] * 64))
    assert all(isinstance(one, Rates) for one in found)
    assert len(set(found)) == 1
