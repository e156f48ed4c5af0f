"""What protocol.py says of every store, sentence by sentence, run against each that there is."""

import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from budgetguard.spend import OUTPUT, TOKENS, TURNS, USD, ZERO, Vector, excess, plus
from budgetguard.stores.protocol import (
    Address,
    Balance,
    Drop,
    Extend,
    Hold,
    Line,
    Read,
    Release,
    Renew,
    Reply,
    Settle,
    Store,
)
from budgetguard.stores.sqlite import SQLiteStore
from budgetguard.stores.windows import window_at

LEASE_S = 0.2
NEED: Vector = (100, 60, 40, 0, 1, 5_000)
USED: Vector = (70, 50, 20, 0, 1, 3_000)
ODD_NAMES = ["größe", "a:b", "{a}", "a/b", "a b", "", "%_*?[]", "'\"\\", "日本", "a\nb", "0", "🙂"]

Open = Callable[..., Store]


@pytest.fixture(params=["sqlite", "redis"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    """Opens the same store again, with the parameters of a URL."""
    if request.param == "sqlite":
        make, url = SQLiteStore, f"sqlite:///{tmp_path / 'fleet.db'}"
    else:
        make = pytest.importorskip("budgetguard.stores.redis").RedisStore
        url = request.getfixturevalue("redis_url")
    opened: list[Store] = []

    def open_with(query: str = "") -> Store:
        opened.append(make(f"{url}{'&' if query and '?' in url else query and '?'}{query}"))
        return opened[-1]

    yield open_with
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> Store:
    return open_store()


@pytest.fixture
def short(open_store: Open) -> Store:
    """A store with short leases."""
    return open_store(f"lease={LEASE_S}")


@pytest.fixture
def tenant() -> str:
    return f"tenant {uuid.uuid4()}"


@pytest.fixture
def account(tenant: str) -> Address:
    return Address(tenant, "order", "17")


@pytest.fixture
def inner(tenant: str) -> Address:
    return Address(tenant, "triage", "17")


def turns(number: int) -> Vector:
    return (0, 0, 0, 0, number, 0)


def hold(store: Store, id: str, *lines: Line | Address, need: Vector = NEED, loop="") -> Reply:
    made = tuple(each if isinstance(each, Line) else Line(each) for each in lines)
    return store.run(Hold(id, need, made, loop))


def settle(store: Store, id: str, *held: Balance, used: Vector = USED, **options) -> Reply:
    accounts = tuple((each.address, each.epoch) for each in held)
    return store.run(Settle(id, used, accounts, **options))


def read(store: Store, *accounts: Address) -> tuple[Balance, ...]:
    return store.run(Read(accounts)).balances


def wait_for(looked: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not looked():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)


# ------------------------------------------------------------------------------------ hold, settle


def test_a_hold_makes_the_account_and_its_settlement_replaces_it(store, account):
    (held,) = hold(store, "h", account).balances
    assert held.address == account
    assert (held.held, held.settled) == (NEED, ZERO)
    reply = settle(store, "h", held)
    (after,) = reply.balances
    assert (after.held, after.settled, after.overshoot) == (ZERO, USED, ZERO)
    assert reply == Reply((after,))
    assert read(store, account) == (after,)


def test_the_epoch_is_the_unix_time_in_milliseconds_at_which_the_account_was_made(store, account):
    (held,) = hold(store, "h", account).balances
    assert abs(held.epoch / 1000 - time.time()) < 5
    (later,) = hold(store, "h2", account).balances
    assert later.epoch == held.epoch


def test_a_hold_fits_up_to_the_limit_and_not_beyond(store, account):
    line = Line(account, ((TURNS, 2), (USD, 10_000)))
    assert hold(store, "1", line).short is None
    assert hold(store, "2", line).short is None
    reply = hold(store, "3", line)
    assert reply.short == (0, TURNS)
    assert reply.balances[0].held == plus(NEED, NEED)


def test_what_is_settled_counts_against_the_limit(store, account):
    line = Line(account, ((OUTPUT, 59),))
    settle(store, "1", *hold(store, "1", line).balances)
    assert hold(store, "2", line).short == (0, OUTPUT)
    assert hold(store, "2", Line(account, ((OUTPUT, 60),))).short is None


def test_a_line_without_limits_only_pays(store, account):
    for each in range(5):
        assert hold(store, str(each), account).short is None
    assert read(store, account)[0].held == (500, 300, 200, 0, 5, 25_000)


def test_nothing_changes_in_any_account_if_the_second_line_is_short(store, account, inner):
    before = hold(store, "1", account).balances
    limits = ((TURNS, 5),)
    reply = hold(store, "2", Line(account, limits, NEED), Line(inner, ((TURNS, 0),)), loop="l")
    assert reply.short == (1, TURNS)
    assert [each.address for each in reply.balances] == [account, inner]
    assert read(store, account)[0]._replace(lease_left_s=None) == before[0]._replace(
        lease_left_s=None
    )
    assert read(store, inner) == (Balance(inner),)


def test_short_names_the_outermost_line_and_its_meter(store, account, inner):
    tight = ((TOKENS, 1_000), (USD, 4_999))
    both = hold(store, "1", Line(account, tight), Line(inner, ((TURNS, 0),)))
    assert both.short == (0, USD)
    assert hold(store, "1", Line(account, ((TOKENS, 1_000),)), Line(inner, tight)).short == (1, USD)


def test_a_hold_that_is_short_does_not_make_its_accounts(store, account):
    assert hold(store, "1", Line(account, ((TURNS, 0),))).balances == (Balance(account),)
    assert store.accounts(account.tenant) == []


def test_a_hold_of_the_same_id_is_not_made_again(store, account, inner):
    lines = Line(account, ((TURNS, 1),)), Line(inner, ((TURNS, 1),))
    first, again = hold(store, "1", *lines), hold(store, "1", *lines)
    assert again.short is None
    assert [each.held for each in again.balances] == [NEED, NEED]
    assert [each.version for each in again.balances] == [each.version for each in first.balances]


def test_balances_come_in_the_order_of_the_command(store, tenant):
    names = [Address(tenant, name, "1") for name in "cab"]
    replies = [
        reply := hold(store, "1", *names),
        settle(store, "1", *reply.balances),
        store.run(Release("1", tuple(names))),
        store.run(Drop("l", tuple(names))),
        store.run(Read(tuple(names))),
    ]
    for reply in replies:
        assert [each.address for each in reply.balances] == names


def test_what_was_used_beyond_the_hold_is_overshoot_meter_by_meter(store, account):
    used = (120, 50, 70, 0, 1, 5_001)
    (after,) = settle(store, "1", *hold(store, "1", account).balances, used=used).balances
    assert (after.settled, after.held) == (used, ZERO)
    assert after.overshoot == (20, 0, 30, 0, 0, 1)


def test_a_repeated_settlement_adds_nothing_and_says_so(store, account, inner):
    held = hold(store, "1", account, inner).balances
    first, again = settle(store, "1", *held), settle(store, "1", *held)
    assert again.balances == first.balances
    assert (first.repeated, again.repeated) == (False, True)
    assert not again.late


def test_a_settlement_of_a_hold_that_never_was_adds_nothing(store, account):
    (held,) = hold(store, "1", account).balances
    reply = settle(store, "other", held)
    assert reply.repeated
    assert (reply.balances[0].settled, reply.balances[0].held) == (ZERO, NEED)


def test_versions_grow_with_every_change_and_only_then(store, account):
    line = Line(account, ((TURNS, 3),), turns(1))
    versions = [0]

    def note(reply: Reply) -> None:
        versions.append(reply.balances[0].version)

    note(hold(store, "1", line, loop="l"))
    note(hold(store, "2", account))
    note(store.run(Extend("e", account, turns(1))))
    note(store.run(Release("2", (account,))))
    note(store.run(Drop("l", (account,))))
    note(settle(store, "1", *read(store, account)))
    assert versions == sorted(set(versions))
    del versions[:-1]
    note(store.run(Read((account,))))
    note(store.run(Extend("e", account, turns(1))))
    note(store.run(Release("2", (account,))))
    note(settle(store, "1", *read(store, account)))
    note(hold(store, "3", Line(account, ((TURNS, 0),))))
    assert len(set(versions)) == 1


# ------------------------------------------------------------------------- unheld, lost, forgotten


def test_what_was_used_without_a_hold_is_added_once(store, account, inner):
    blank = read(store, account, inner)
    first = settle(store, "1", *blank, unheld=True)
    again = settle(store, "1", *blank, unheld=True)
    assert [each.settled for each in first.balances] == [USED, USED]
    assert all(each.epoch for each in first.balances)
    assert again.balances == first.balances
    assert (first.repeated, first.late, again.repeated) == (False, False, True)


def test_an_unheld_settlement_replaces_the_hold_if_the_store_knows_it_after_all(store, account):
    held = hold(store, "1", account).balances
    (after,) = settle(store, "1", *held, unheld=True).balances
    assert (after.held, after.settled) == (ZERO, USED)
    again = settle(store, "1", *held, unheld=True)
    assert again.repeated
    assert again.balances[0].settled == USED


def test_an_account_of_another_epoch_is_not_the_one_that_was_held_in(store, account):
    (now,) = hold(store, "other", account).balances
    lost = now._replace(epoch=now.epoch - 1)
    first = settle(store, "1", lost)
    assert not first.repeated
    assert (first.balances[0].settled, first.balances[0].held) == (USED, NEED)
    again = settle(store, "1", lost)
    assert again.repeated
    assert again.balances[0].version == first.balances[0].version


def test_an_account_that_was_lost_is_made_anew_by_a_settlement(store, account):
    lost = Balance(account, epoch=1_000_000_000_000)
    (after,) = settle(store, "1", lost).balances
    assert (after.settled, after.overshoot) == (USED, ZERO)
    assert after.epoch > lost.epoch
    assert settle(store, "1", lost).balances == (after,)


# -------------------------------------------------------------------------------------- release


def test_a_release_gives_the_hold_back_once(store, account, inner):
    hold(store, "1", account, inner)
    first = store.run(Release("1", (account, inner)))
    again = store.run(Release("1", (account, inner)))
    for each in first.balances:
        assert (each.held, each.settled, each.released) == (ZERO, ZERO, 1)
    assert again.balances == first.balances
    assert (first.repeated, again.repeated) == (False, True)


def test_a_release_of_an_unknown_hold_makes_no_account(store, account):
    reply = store.run(Release("1", (account,), "l", (turns(1),)))
    assert reply.balances == (Balance(account),)
    assert reply.repeated


# -------------------------------------------------------------------------------------- reserves


def test_a_loop_keeps_back_its_reserve_instead_of_what_it_kept(store, account):
    (first,) = hold(store, "1", Line(account, (), turns(1)), loop="l").balances
    assert (first.held, first.reserved) == (NEED, turns(1))
    (second,) = hold(store, "2", Line(account, (), turns(2)), loop="l").balances
    assert second.reserved == turns(2)
    (third,) = hold(store, "3", Line(account), loop="l").balances
    assert third.reserved == ZERO


def test_reserves_of_loops_add_up(store, account):
    hold(store, "1", Line(account, (), turns(1)), loop="a")
    (after,) = hold(store, "2", Line(account, (), turns(2)), loop="b").balances
    assert after.reserved == turns(3)


def test_a_hold_may_use_its_own_loops_reserve_but_not_that_of_others(store, account):
    limits = ((TURNS, 2),)
    assert hold(store, "1", Line(account, limits, turns(1)), loop="l", need=turns(1)).short is None
    assert hold(store, "2", Line(account, limits), need=turns(1)).short == (0, TURNS)
    assert hold(store, "2", Line(account, limits), loop="m", need=turns(1)).short == (0, TURNS)
    assert hold(store, "2", Line(account, limits), loop="l", need=turns(1)).short is None
    assert read(store, account)[0].reserved == ZERO


def test_the_new_reserve_must_fit_too(store, account):
    line = Line(account, ((TURNS, 1),), turns(1))
    reply = hold(store, "1", line, loop="l", need=turns(1))
    assert reply.short == (0, TURNS)
    assert hold(store, "1", line._replace(limits=((TURNS, 2),)), loop="l").short is None


def test_a_hold_that_is_short_leaves_the_reserve_as_it_was(store, account):
    hold(store, "1", Line(account, (), turns(1)), loop="l")
    assert hold(store, "2", Line(account, ((TURNS, 0),), turns(3)), loop="l").short
    assert read(store, account)[0].reserved == turns(1)


def test_reserves_are_kept_for_each_account(store, account, inner):
    outer = Line(account, (), turns(3))
    after = hold(store, "1", outer, Line(inner, (), turns(1)), loop="l").balances
    assert [each.reserved for each in after] == [turns(3), turns(1)]


def test_a_settlement_that_ends_the_loop_gives_its_reserve_back(store, account):
    hold(store, "other", Line(account, (), turns(5)), loop="other")
    held = hold(store, "1", Line(account, (), turns(1)), loop="l").balances
    (after,) = settle(store, "1", *held, ended_loop="l").balances
    assert (after.reserved, after.settled) == (turns(5), USED)


def test_a_settlement_that_ends_no_loop_leaves_the_reserve(store, account):
    held = hold(store, "1", Line(account, (), turns(1)), loop="l").balances
    assert settle(store, "1", *held).balances[0].reserved == turns(1)


def test_drop_gives_a_reserve_back_and_makes_no_account(store, account, inner):
    hold(store, "1", Line(account, (), turns(1)), loop="l")
    first = store.run(Drop("l", (account, inner)))
    assert first.balances[0].reserved == ZERO
    assert first.balances[1] == Balance(inner)
    assert store.run(Drop("l", (account, inner))).balances[0].version == first.balances[0].version


def test_a_released_last_call_puts_the_reserve_back(store, account, inner):
    hold(store, "1", Line(account, (), turns(2)), Line(inner, (), turns(1)), loop="l")
    hold(store, "2", account, inner, loop="l")
    assert [each.reserved for each in read(store, account, inner)] == [ZERO, ZERO]
    release = Release("2", (account, inner), "l", (turns(2), turns(1)))
    after = store.run(release).balances
    assert [each.reserved for each in after] == [turns(2), turns(1)]
    assert [each.held for each in after] == [NEED, NEED]
    store.run(Drop("l", (account, inner)))
    again = store.run(release)
    assert again.repeated
    assert [each.reserved for each in again.balances] == [ZERO, ZERO]


# -------------------------------------------------------------------------------------- extensions


def test_an_extension_raises_the_limits_once(store, account):
    line = Line(account, ((TURNS, 1),))
    hold(store, "1", line)
    assert hold(store, "2", line).short
    for _ in range(2):
        (after,) = store.run(Extend("e", account, turns(1))).balances
        assert after.extra == turns(1)
    assert hold(store, "2", line).short is None
    assert hold(store, "3", line).short
    assert store.run(Extend("f", account, turns(1))).balances[0].extra == turns(2)


def test_an_account_can_be_extended_before_it_was_used(store, account):
    store.run(Extend("e", account, turns(1)))
    assert hold(store, "1", Line(account, ((TURNS, 0),))).short is None


# ------------------------------------------------------------------------------------------ leases


def test_a_lease_that_runs_out_gives_the_hold_back(short, account):
    line = Line(account, ((TURNS, 1),))
    (held,) = hold(short, "1", line).balances
    assert 0 < held.lease_left_s <= LEASE_S
    wait_for(lambda: read(short, account)[0].held == ZERO)
    (after,) = read(short, account)
    assert (after.settled, after.released, after.lease_left_s) == (ZERO, 1, None)
    assert after.version > held.version
    assert hold(short, "2", line).short is None


def test_a_late_settlement_is_added_all_the_same_and_once(short, account):
    held = hold(short, "1", account).balances
    wait_for(lambda: read(short, account)[0].released == 1)
    first, again = settle(short, "1", *held), settle(short, "1", *held)
    (after,) = first.balances
    assert (after.settled, after.late, after.released) == (USED, 1, 1)
    assert (after.held, after.overshoot) == (ZERO, ZERO)
    assert (first.late, first.repeated) == (True, False)
    assert (again.late, again.repeated) == (False, True)
    assert again.balances == first.balances


def test_a_release_after_the_lease_ran_out_changes_nothing(short, account):
    hold(short, "1", account)
    wait_for(lambda: read(short, account)[0].released == 1)
    (before,) = read(short, account)
    assert short.run(Release("1", (account,))).balances == (before,)


def test_a_hold_whose_lease_ran_out_is_made_anew(short, account):
    hold(short, "1", account)
    wait_for(lambda: read(short, account)[0].held == ZERO)
    assert hold(short, "1", account).balances[0].held == NEED


def test_a_reserve_has_a_lease_too(short, account):
    held = hold(short, "1", Line(account, (), turns(1)), loop="l").balances
    (after,) = settle(short, "1", *held).balances
    assert after.reserved == turns(1)
    assert 0 < after.lease_left_s <= LEASE_S
    wait_for(lambda: read(short, account)[0].reserved == ZERO)
    (after,) = read(short, account)
    assert (after.released, after.lease_left_s) == (0, None)


def test_renewed_leases_do_not_run_out_and_unknown_ones_are_skipped(open_store, account):
    store = open_store("lease=0.4")
    hold(store, "kept", Line(account, (), turns(1)), loop="l")
    hold(store, "left", Line(account, (), turns(7)), loop="m")

    def is_over() -> bool:
        (after,) = store.run(Renew(account, ("kept", "unknown"), ("l", "unknown"))).balances
        return after.released == 1

    wait_for(is_over)
    (after,) = read(store, account)
    assert (after.held, after.reserved) == (NEED, turns(1))


def test_every_hold_of_a_loop_renews_the_lease_of_its_reserve(open_store, account):
    store = open_store("lease=0.4")
    line = Line(account, (), turns(1))
    hold(store, "first", line, loop="l")
    for each in itertools.count():
        (after,) = hold(store, "again", line, loop="l").balances
        settle(store, "again", after)
        hold(store, f"{each}", line, loop="l")
        if after.released:
            break
        time.sleep(0.02)
    assert read(store, account)[0].reserved == turns(1)


def test_renewing_does_not_bring_back_what_ran_out(short, account):
    hold(short, "1", Line(account, (), turns(1)), loop="l")
    wait_for(lambda: read(short, account)[0].held == ZERO)
    (after,) = short.run(Renew(account, ("1",), ("l",))).balances
    assert (after.held, after.reserved, after.lease_left_s) == (ZERO, ZERO, None)


def test_renewing_makes_no_account(store, account):
    assert store.run(Renew(account, ("1",), ("l",))).balances == (Balance(account),)


def test_a_listing_gives_leases_back_too(short, account):
    hold(short, "1", account)
    wait_for(lambda: short.accounts(account.tenant)[0].held == ZERO)
    assert short.accounts(account.tenant)[0].released == 1


def test_a_store_says_how_long_its_leases_are(open_store):
    assert open_store().lease_s == 30
    assert open_store("lease=7").lease_s == 7
    least, most = open_store().poll_s
    assert 0 < least < most


# ----------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("kind", ["hour", "day", "month"])
def test_a_window_that_is_over_changes_nothing_and_the_right_one_is_named(store, tenant, kind):
    old = Address(tenant, "b", "1", window_at(kind, time.time() - 40 * 24 * 3600))
    plain = Address(tenant, "a", "1")
    reply = hold(store, "1", plain, old)
    now = old._replace(window=window_at(kind, time.time()))
    assert reply.rolled
    assert reply.balances == (Balance(plain), Balance(now))
    assert store.run(Read((old,))) == Reply((Balance(now),), rolled=True)
    assert hold(store, "1", plain, now).rolled is False
    assert store.run(Read((old,))).balances[0].address == now
    assert store.run(Read((now,))).balances[0].held == NEED


def test_a_window_that_has_not_begun_is_not_current_either(store, tenant):
    soon = Address(tenant, "b", "1", window_at("day", time.time() + 3 * 24 * 3600))
    assert hold(store, "1", soon).rolled
    assert store.accounts(tenant) == []


def test_other_commands_reach_a_window_that_is_over(store, tenant):
    old = Address(tenant, "b", "1", window_at("day", time.time() - 10 * 24 * 3600))
    lost = Balance(old, epoch=1)
    after = settle(store, "1", lost)
    assert (after.rolled, after.balances[0].address) == (False, old)
    assert after.balances[0].settled == USED
    for command in (
        Release("1", (old,)),
        Drop("l", (old,)),
        Renew(old, ("1",), ()),
        Extend("e", old, turns(1)),
    ):
        reply = store.run(command)
        assert (reply.rolled, reply.balances[0].address) == (False, old)
    assert store.accounts(tenant)[0].extra == turns(1)


# -------------------------------------------------------------------------------- names and listing


def test_reading_makes_no_account(store, account, inner):
    assert read(store, account, inner) == (Balance(account), Balance(inner))
    assert store.accounts(account.tenant) == []


def test_odd_names_are_kept_apart(store, tenant):
    names = [Address(tenant, a, b) for a in ODD_NAMES for b in ODD_NAMES]
    for number, each in enumerate(names):
        hold(store, each.budget, each, need=turns(number))
    for number, each in enumerate(names):
        assert read(store, each)[0].held == turns(number)
    assert {each.address for each in store.accounts(tenant)} == set(names)


def test_odd_ids_of_holds_and_loops_are_kept_apart(store, account):
    for each in ODD_NAMES[:-1]:
        if each:
            hold(store, each, Line(account, (), turns(1)), loop=each)
    (held,) = read(store, account)
    number = len(ODD_NAMES) - 2
    assert (held.held[TURNS], held.reserved[TURNS]) == (number, number)
    for each in ODD_NAMES[:-1]:
        if each:
            settle(store, each, held, ended_loop=each)
    (after,) = read(store, account)
    assert (after.held, after.reserved, after.settled[TURNS]) == (ZERO, ZERO, number)


def test_accounts_are_those_of_a_tenant_or_all(store, tenant):
    mine = [Address(tenant, "a", "1"), Address(tenant, "a", "2"), Address(tenant, "b", "1")]
    other = Address(f"{tenant} other", "a", "1")
    for each in (*mine, other):
        hold(store, "1", each)
    assert {each.address for each in store.accounts(tenant)} == set(mine)
    assert {each.address for each in store.accounts()} >= {*mine, other}
    listed = {each.address: each for each in store.accounts(tenant)}
    for each in mine:
        (told,) = read(store, each)
        assert listed[each]._replace(lease_left_s=None) == told._replace(lease_left_s=None)
        assert listed[each].lease_left_s == pytest.approx(told.lease_left_s, abs=2)


def test_values_are_kept_by_name_until_replaced(store, tenant):
    first, second = f"{tenant}/1", f"{tenant}/2"
    assert store.load(first) is None
    store.save({first: b"a", second: bytes(range(256))})
    store.save({first: b""})
    store.save({})
    assert store.load(first) == b""
    assert store.load(second) == bytes(range(256))


def test_another_store_of_the_same_place_sees_the_same(open_store, account, tenant):
    one, other = open_store(), open_store()
    (held,) = hold(one, "1", account).balances
    (seen,) = settle(other, "1", held).balances
    assert read(one, account) == (seen,)
    one.save({tenant: b"1"})
    assert other.load(tenant) == b"1"


def test_large_amounts_are_exact(store, account):
    large = (2**50 + 1, 2**50, 1, 0, 1, 2**52 + 1)
    hold(store, "1", account, need=large)
    (after,) = settle(store, "1", *read(store, account), used=large).balances
    assert after.settled == large


# ------------------------------------------------------------------------ concurrency, conservation


def test_two_threads_of_two_hundred_holds_never_pass_the_limit(store, account, inner):
    line = Line(account, ((TURNS, 150),))
    start = threading.Barrier(2)
    granted: list[str] = []
    most: list[int] = []

    def keep_on(name: str) -> None:
        start.wait()
        for each in range(200):
            reply = hold(store, f"{name}{each}", line, inner)
            if reply.short is None:
                granted.append(f"{name}{each}")
            held = reply.balances[0]
            most.append(held.held[TURNS] + held.settled[TURNS])
            if each % 3 == 0 and reply.short is None:
                settle(store, f"{name}{each}", *reply.balances, used=turns(1))

    threads = [threading.Thread(target=keep_on, args=(name,)) for name in "ab"]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(granted) == 150
    assert max(most) == 150
    outer, below = read(store, account, inner)
    assert outer.held[TURNS] + outer.settled[TURNS] == 150
    assert (outer.held, outer.settled) == (below.held, below.settled)


class Model:
    """An account without leases, in plain Python."""

    def __init__(self) -> None:
        self.holds: dict[str, Vector] = {}
        self.reserves: dict[str, Vector] = {}
        self.extensions: dict[str, Vector] = {}
        self.settled = ZERO
        self.overshoot = ZERO
        self.released = 0

    def fits(self, line: Line, need: Vector, loop: str) -> bool:
        others = self.total({k: v for k, v in self.reserves.items() if k != loop})
        taken = plus(plus(self.settled, self.total(self.holds)), plus(others, need))
        taken = plus(taken, line.reserve)
        extra = self.total(self.extensions)
        return all(taken[meter] <= limit + extra[meter] for meter, limit in line.limits)

    def hold(self, id: str, line: Line, need: Vector, loop: str) -> None:
        self.holds[id] = need
        if loop:
            self.keep(loop, line.reserve)

    def keep(self, loop: str, reserve: Vector) -> None:
        self.reserves[loop] = reserve

    def settle(self, id: str, used: Vector) -> None:
        if (need := self.holds.pop(id, None)) is not None:
            self.settled = plus(self.settled, used)
            self.overshoot = plus(self.overshoot, excess(used, need))

    def release(self, id: str) -> bool:
        found = self.holds.pop(id, None) is not None
        self.released += found
        return found

    @staticmethod
    def total(vectors: dict[str, Vector]) -> Vector:
        total = ZERO
        for each in vectors.values():
            total = plus(total, each)
        return total

    def agrees(self, balance: Balance) -> bool:
        return (
            balance.settled, balance.held, balance.reserved,
            balance.extra, balance.overshoot, balance.released,
        ) == (
            self.settled, self.total(self.holds), self.total(self.reserves),
            self.total(self.extensions), self.overshoot, self.released,
        )  # fmt: skip


class History:
    """Commands at random, done by a store and by a model of each account."""

    def __init__(self, store: Store, tenant: str, seed: int) -> None:
        self.store = store
        self.rng = random.Random(seed)
        self.models = {Address(tenant, name, "1"): Model() for name in "abc"}
        self.epochs: dict[Address, int] = {}
        self.ids: list[str] = []
        self.refused = 0

    def step(self) -> None:
        steps = [self.hold, self.hold, self.settle, self.release, self.drop, self.extend]
        loop = self.rng.choice(["", "l", "m"])
        reply = self.rng.choice(steps)(self.some_accounts(), loop)
        for balance in reply.balances:
            assert self.models[balance.address].agrees(balance)
            self.epochs[balance.address] = balance.epoch

    def hold(self, accounts: tuple[Address, ...], loop: str) -> Reply:
        self.ids.append(str(len(self.ids)))
        need = self.vector(20)
        lines = [
            Line(each, ((TURNS, 90), (USD, 120)), self.vector(8) if loop else ZERO)
            for each in accounts
        ]
        fits = [self.models[each.address].fits(each, need, loop) for each in lines]
        reply = hold(self.store, self.ids[-1], *lines, need=need, loop=loop)
        if all(fits):
            assert reply.short is None
            for each in lines:
                self.models[each.address].hold(self.ids[-1], each, need, loop)
        else:
            assert reply.short is not None
            assert reply.short[0] == fits.index(False)
            self.refused += 1
        return reply

    def settle(self, accounts: tuple[Address, ...], loop: str) -> Reply:
        id, used = self.some_id(), self.vector(25)
        there = [each for each in accounts if self.epochs.get(each)]
        models = [self.models[each] for each in there]
        is_known = any(id in each.holds for each in models)
        reply = self.store.run(
            Settle(id, used, tuple((each, self.epochs[each]) for each in there), loop)
        )
        assert reply.repeated != is_known or not there
        for each in models:
            each.settle(id, used)
            each.reserves.pop(loop, None)
        return reply

    def release(self, accounts: tuple[Address, ...], loop: str) -> Reply:
        id = self.some_id()
        reserves = tuple(self.vector(5) for _ in accounts)
        reply = self.store.run(Release(id, accounts, loop, reserves if loop else ()))
        for each, reserve in zip(accounts, reserves, strict=True):
            if self.models[each].release(id) and loop:
                self.models[each].keep(loop, reserve)
        return reply

    def drop(self, accounts: tuple[Address, ...], loop: str) -> Reply:
        for each in accounts:
            self.models[each].reserves.pop(loop, None)
        return self.store.run(Drop(loop, accounts))

    def extend(self, accounts: tuple[Address, ...], loop: str) -> Reply:
        id, extra = str(self.rng.randrange(9)), self.vector(3)
        self.models[accounts[0]].extensions.setdefault(id, extra)
        return self.store.run(Extend(id, accounts[0], extra))

    def some_accounts(self) -> tuple[Address, ...]:
        return tuple(self.rng.sample(list(self.models), self.rng.randint(1, 3)))

    def some_id(self) -> str:
        return self.rng.choice(self.ids[-12:] or ["none"])

    def vector(self, most: int) -> Vector:
        a, b, c, d, e, f = (self.rng.randrange(most) for _ in range(6))
        return (a, b, c, d, e, f)


@pytest.mark.parametrize("seed", range(4))
def test_any_history_of_commands_agrees_with_a_plain_model(store, tenant, seed):
    history = History(store, tenant, seed)
    for _ in range(300):
        history.step()
    listed = {each.address: each for each in store.accounts(tenant)}
    assert len(listed) == 3
    assert all(history.models[each].agrees(listed[each]) for each in listed)
    assert history.refused > 20
    assert len(history.ids) - history.refused > 10
