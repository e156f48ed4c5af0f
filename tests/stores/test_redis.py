"""What is special about the store in Redis; what every store does is tested in test_protocol.py."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import redis

from budgetguard.errors import StoreUnavailableError
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
    Settle,
)
from budgetguard.stores.redis import RedisStore
from budgetguard.stores.redis_scripts import address_of, key_of
from budgetguard.stores.windows import window_at
from tests.stores.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.stores.conftest import RedisServer

soon = partial(eventually, within_s=5)
NEED = (100, 60, 40, 0, 1, 5_000)
DAY_MS = 24 * 3600 * 1000


@contextmanager
def opened(url: str) -> Iterator[RedisStore]:
    store = RedisStore(url)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    with opened(redis_url) as store:
        yield store


@pytest.fixture
def account(request: pytest.FixtureRequest) -> Address:
    """An account that no other test uses."""
    return Address(request.node.name, "order", "7")


@pytest.fixture
def admin(redis_url: str) -> Iterator[redis.Redis]:
    """A client that looks at the shared server."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def hold(id: str, *accounts: Address, tokens: int = 10_000) -> Hold:
    return Hold(id, NEED, tuple(Line(each, ((0, tokens),)) for each in accounts))


def read(store: RedisStore, account: Address) -> Balance:
    return store.run(Read((account,))).balances[0]


def test_every_command_is_one_round_trip_and_one_script(
    store: RedisStore, admin: redis.Redis, account: Address
) -> None:
    commands = [
        hold("a", account), Renew(account, ("a",), ()), Release("a", (account,)),
        Settle("b", NEED, ((account, 0),)), Drop("loop", (account,)),
        Extend("c", account, NEED), Read((account,)),
    ]  # fmt: skip
    for command in commands:
        store.run(command)
    with admin.monitor() as monitor:
        for command in commands:
            store.run(command)
        admin.echo("over")
        sent = list(_sent_by_clients(monitor))
    assert sent == ["EVALSHA"] * len(commands)


def _sent_by_clients(monitor: redis.client.Monitor) -> Iterator[str]:
    """The commands until an ECHO; not those that scripts call, nor a greeting of redis-py's."""
    for event in monitor.listen():
        name = event["command"].split()[0]
        if name == "ECHO":
            return
        if event["client_type"] != "lua" and name not in {"CLIENT", "HELLO"}:
            yield name


def test_a_server_that_forgot_the_scripts_is_told_them_again(
    store: RedisStore, admin: redis.Redis, account: Address
) -> None:
    store.run(hold("a", account))
    admin.script_flush()
    assert store.run(hold("b", account)).balances[0].held == (200, 120, 80, 0, 2, 10_000)


def test_a_restart_between_two_commands_is_not_noticed(redis_server: RedisServer) -> None:
    account = Address("t", "order", "7")
    with opened(redis_server.url) as store:
        epoch = store.run(hold("a", account)).balances[0].epoch
        redis_server.restart()
        assert store.run(hold("b", account)).balances[0].epoch > epoch


def test_what_a_lost_account_spent_is_added_once(redis_server: RedisServer) -> None:
    account = Address("t", "order", "7")
    with opened(redis_server.url) as store:
        epoch = store.run(hold("a", account)).balances[0].epoch
        redis_server.restart()
        settle = Settle("a", NEED, ((account, epoch),))
        assert store.run(settle).balances[0].settled == NEED
        again = store.run(settle)
        assert again.repeated
        assert again.balances[0].settled == NEED


def test_a_server_that_is_down_is_unavailable_at_once(redis_server: RedisServer) -> None:
    redis_server.stop()
    with opened(f"{redis_server.url}?timeout=0.3") as store:
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError) as refused:
            store.run(hold("a", Address("t", "order", "7")))
        with pytest.raises(StoreUnavailableError):
            store.load("a")
        with pytest.raises(StoreUnavailableError):
            store.accounts()
        assert time.monotonic() - start < 1
    assert refused.value.store == redis_server.url


def test_a_server_that_says_nothing_is_unavailable_within_the_timeout(
    redis_server: RedisServer,
) -> None:
    account = Address("t", "order", "7")
    with opened(f"{redis_server.url}?timeout=0.2") as store:
        store.run(hold("a", account))
        with redis_server.paused():
            for _ in range(2):  # an old connection, and a new one
                start = time.monotonic()
                with pytest.raises(StoreUnavailableError, match=r"no answer within 0\.2 s"):
                    store.run(hold("b", account))
                assert 0.15 < time.monotonic() - start < 0.4
        assert store.run(hold("b", account)).balances[0].held == (200, 120, 80, 0, 2, 10_000)


def test_a_late_answer_is_not_taken_for_that_of_the_next_command(
    redis_server: RedisServer,
) -> None:
    first, second = Address("t", "order", "1"), Address("t", "order", "2")
    with opened(f"{redis_server.url}?timeout=0.1") as store:
        store.run(hold("a", first))
        with redis_server.paused(), pytest.raises(StoreUnavailableError):
            store.run(hold("b", first))
        assert store.run(hold("c", second)).balances[0].held == NEED


@pytest.mark.parametrize("sabotage", ["readonly", "busy", "memory", "type"])
def test_a_server_that_refuses_is_unavailable(redis_server: RedisServer, sabotage: str) -> None:
    account = Address("t", "order", "7")
    with redis.Redis(port=redis_server.port) as admin, opened(redis_server.url) as store:
        store.run(hold("a", account))
        if sabotage == "readonly":
            admin.replicaof("127.0.0.1", 1)
        elif sabotage == "memory":
            admin.config_set("maxmemory", 1)
        elif sabotage == "type":
            admin.set(key_of(account), "a string")
        else:
            admin.config_set("busy-reply-threshold", 1)
            endless = threading.Thread(target=_run_endlessly, args=(redis_server.port,))
            endless.start()
        try:
            assert soon(lambda: _is_refused(store, account))
        finally:
            if sabotage == "busy":
                admin.script_kill()
                endless.join()


def _run_endlessly(port: int) -> None:
    with redis.Redis(port=port) as client, pytest.raises(redis.ResponseError):
        client.eval("while true do end", 0)


def _is_refused(store: RedisStore, account: Address) -> bool:
    try:
        store.run(hold("b", account))
    except StoreUnavailableError:
        return True
    return False


def test_an_unheld_call_whose_hold_came_through_is_settled_once(
    store: RedisStore, account: Address
) -> None:
    store.run(hold("a", account))
    settle = Settle("a", NEED, ((account, 0),), unheld=True)
    for again in (False, True):
        reply = store.run(settle)
        assert reply.repeated is again
        assert (reply.balances[0].settled, reply.balances[0].held) == (NEED, (0,) * 6)
    # The hold itself, delayed on another connection, must not hold for good.
    assert store.run(hold("a", account)).balances[0].held == (0,) * 6


def test_a_hold_whose_lease_ran_out_is_made_again_when_it_is_sent_again(
    redis_url: str, account: Address
) -> None:
    with opened(f"{redis_url}?lease=0.05") as store:
        store.run(hold("a", account))
        time.sleep(0.06)
        assert read(store, account).held == (0,) * 6
        assert store.run(hold("a", account)).balances[0].held == NEED
        assert store.run(hold("a", account, tokens=1)).short is None


def test_a_release_after_the_lease_ran_out_changes_nothing(
    redis_url: str, account: Address
) -> None:
    with opened(f"{redis_url}?lease=0.05") as store:
        store.run(hold("a", account))
        time.sleep(0.06)
        release = Release("a", (account,), "loop", (NEED,))
        reply = store.run(release)
        assert (reply.balances[0].released, reply.balances[0].reserved) == (1, (0,) * 6)
        assert not reply.repeated
        assert store.run(release).repeated


def test_what_is_remembered_of_ended_holds_is_forgotten_a_day_later(
    store: RedisStore, admin: redis.Redis, account: Address
) -> None:
    settle = Settle("a", NEED, ((account, 0),), unheld=True)
    store.run(settle)
    key = key_of(account)
    totals = list(struct.unpack("<18q", admin.hget(key, "t")))
    state, until, *amounts = struct.unpack("<8q", admin.hget(key, "h:a"))
    now_ms = totals[0]
    assert now_ms + DAY_MS <= until == totals[5] <= now_ms + DAY_MS + 1_000
    totals[5] = now_ms
    yesterday = struct.pack("<8q", state, now_ms, *amounts)
    admin.hset(key, mapping={"t": struct.pack("<18q", *totals), "h:a": yesterday})
    assert read(store, account).settled == NEED
    assert set(admin.hkeys(key)) == {b"t", b"u"}
    assert struct.unpack("<18q", admin.hget(key, "t"))[5] == 0


ODD = ["", ":", "{", "}", "{}", "a:b", "%3A", "*", "?", "[a]", "\\", "\n", " ", "größe", "\ud800"]


@pytest.mark.parametrize("odd", ODD)
def test_names_may_have_any_characters(store: RedisStore, account: Address, odd: str) -> None:
    odd_one = Address(f"{account.tenant}{odd}", odd, odd)
    others = [Address(f"{account.tenant}{odd}", odd, odd + "x"), account]
    store.run(Hold(odd, NEED, (Line(odd_one, (), NEED),), loop=odd))
    store.run(Renew(odd_one, (odd,), (odd,)))
    assert read(store, odd_one).held == NEED
    assert [read(store, each).epoch for each in others] == [0, 0]
    assert [each.address for each in store.accounts(odd_one.tenant)] == [odd_one]
    assert address_of(key_of(odd_one)) == odd_one


def test_all_keys_of_a_tenant_lie_in_one_slot() -> None:
    from redis.crc import key_slot

    for tenant in ODD:
        names = [Address(tenant, odd, odd, window) for odd in ODD for window in ("", "2026-11")]
        assert len({key_of(each) for each in names}) == len(names)
        assert len({key_slot(key_of(each).encode()) for each in names}) == 1
    slots = {key_slot(key_of(Address(f"tenant {n}", "b", "i")).encode()) for n in range(100)}
    assert len(slots) > 90


def test_an_account_lives_a_day_from_its_last_use_and_from_the_end_of_its_window(
    store: RedisStore, admin: redis.Redis, account: Address
) -> None:
    month = account._replace(window=window_at("month", time.time()))
    store.run(hold("a", account, month))
    assert DAY_MS - 5_000 < admin.pttl(key_of(account)) <= DAY_MS
    assert admin.pttl(key_of(month)) > DAY_MS or time.gmtime().tm_mday > 27
    past = account._replace(window="2020-01")
    store.run(Settle("b", NEED, ((past, 0),)))
    assert DAY_MS - 5_000 < admin.pttl(key_of(past)) <= DAY_MS


def test_an_account_that_ran_out_is_not_listed(
    store: RedisStore, admin: redis.Redis, account: Address
) -> None:
    store.run(hold("a", account))
    assert [each.address for each in store.accounts(account.tenant)] == [account]
    admin.pexpire(key_of(account), 1)
    assert soon(lambda: store.accounts(account.tenant) == [])
    assert read(store, account) == Balance(account)


def test_what_is_learned_is_kept_without_end(store: RedisStore, admin: redis.Redis) -> None:
    store.save({"odd {name}:": b"\x00\xff", "b": b""})
    store.save({})
    assert (store.load("odd {name}:"), store.load("b"), store.load("c")) == (b"\x00\xff", b"", None)
    assert {admin.ttl(key) for key in admin.keys("{budgetguard:learned}*")} == {-1}


def test_listeners_hear_where_room_came_free(redis_url: str, account: Address) -> None:
    heard: list[Address] = []

    def wake(address: Address) -> None:
        heard.append(address)
        raise RuntimeError("not the listener's problem")

    with opened(redis_url) as worker, opened(f"{redis_url}?lease=0.05") as other:
        worker.listen(wake)
        settle = Settle("a", NEED, ((account, 0),), unheld=True)
        other.run(settle)
        assert soon(
            lambda: other.run(settle._replace(id=str(time.monotonic()))) and heard, within_s=5
        )
        for command in (
            Extend("a", account, NEED),
            Release("b", (account,)),
            Drop("loop", (account,)),
        ):
            other.run(hold("b", account)._replace(loop="loop", lines=(Line(account, (), NEED),)))
            heard.clear()
            other.run(command)
            assert soon(lambda: account in heard)
        other.run(hold("c", account))
        time.sleep(0.06)
        heard.clear()
        read(other, account)
        assert soon(lambda: account in heard)


def test_a_listener_survives_a_restart(redis_server: RedisServer) -> None:
    account = Address("t", "order", "7")
    heard: list[Address] = []
    with opened(redis_server.url) as store:
        store.listen(heard.append)
        redis_server.restart()
        extensions = iter(range(10_000))
        assert soon(
            lambda: store.run(Extend(str(next(extensions)), account, NEED)) and heard, within_s=5
        )


def test_closing_ends_the_thread_and_the_connections(redis_server: RedisServer) -> None:
    with redis.Redis(port=redis_server.port) as admin:
        with opened(redis_server.url) as store:
            store.listen(lambda _: None)
            store.run(hold("a", Address("t", "order", "7")))
            assert soon(lambda: len(admin.client_list()) == 3)
        assert soon(lambda: len(admin.client_list()) == 1)
    assert "budgetguard-redis" not in {each.name for each in threading.enumerate()}


def test_a_forked_child_has_connections_of_its_own(store: RedisStore, account: Address) -> None:
    store.run(hold("parent", account))
    child = os.fork()
    if child == 0:
        done = 1
        try:
            for each in range(100):
                store.run(hold(f"child {each}", account, tokens=10**9))
            done = 0
        finally:
            os._exit(done)
    for each in range(100):
        store.run(hold(f"parent {each}", account, tokens=10**9))
    assert os.waitpid(child, 0)[1] == 0
    assert read(store, account).held[0] == 201 * 100


def test_a_password_is_in_no_name_and_no_error(redis_server: RedisServer) -> None:
    with redis.Redis(port=redis_server.port) as admin:
        admin.config_set("requirepass", "s3cret")
    named = redis_server.url.replace("//", "//:s3cret@")
    with opened(named) as store:
        assert store.url == redis_server.url
        assert store.run(hold("a", Address("t", "order", "7"))).short is None
    with (
        opened(named.replace("s3cret", "wr0ng")) as store,
        pytest.raises(StoreUnavailableError) as no,
    ):
        store.run(hold("a", Address("t", "order", "7")))
    assert "wr0ng" not in f"{no.value}{no.value.__cause__}{no.value.__cause__!r}"
    assert pickle.loads(pickle.dumps(no.value)).store == redis_server.url


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://h?lease=0", "'lease'"),
        ("redis://h?lease=nan", "'lease'"),
        ("redis://h?timeout=soon", "'timeout'"),
        ("redis://h?cluster=yes", "'cluster'"),
        ("redis://h?decode_responses=1", "'decode_responses'"),
        ("redis://h?password=s3cret", "'password'"),
        ("redis://h/1?cluster=1", "database"),
        ("redis://h/one", "database"),
        ("redis://h:66000", "port"),
        ("redis:///0", "host"),
        ("http://h", "redis://"),
    ],
)
def test_a_url_with_an_invalid_part_is_refused(url: str, named: str) -> None:
    with pytest.raises(ValueError, match=named) as refused:
        RedisStore(url)
    assert "s3cret" not in str(refused.value)


def test_a_url_sets_the_lease() -> None:
    assert RedisStore("redis://h").lease_s == 30
    assert RedisStore("rediss://user:pw@h:1/2?lease=0.5&ssl_cert_reqs=none").lease_s == 0.5
    assert RedisStore("rediss://user:pw@h:1/2?lease=5").url == "rediss://h:1/2"


def test_without_redis_py_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r'pip install "agent-budgetguard\[redis\]"'):
        RedisStore("redis://h")


def test_many_threads_never_hold_more_than_the_limit(store: RedisStore, account: Address) -> None:
    together = threading.Barrier(150)
    replies: list[bool] = []

    def work(number: int) -> None:
        together.wait()
        replies.append(store.run(hold(str(number), account, tokens=5_000)).short is None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(replies), sum(replies)) == (150, 50)
    assert read(store, account).held[0] == 5_000


def test_money_is_exact_up_to_nine_million_dollars(store: RedisStore, account: Address) -> None:
    most = 2**53 - 1
    odd = (0, 0, 0, 0, 0, most - 2)
    line = Line(account, ((5, most),))
    assert store.run(Hold("a", odd, (line,))).balances[0].held == odd
    assert store.run(Hold("b", (0, 0, 0, 0, 0, 3), (line,))).short == (0, 5)
    assert store.run(Hold("c", (0, 0, 0, 0, 0, 2), (line,))).balances[0].held[5] == most
    huge = Line(account, ((0, 10**30),))
    assert store.run(Hold("d", (0,) * 6, (huge,))).short is None


def test_a_cluster_works_like_a_single_server(redis_cluster: RedisServer) -> None:
    first, second = Address("t", "order", "1"), Address("u", "order", "2")
    heard: list[Address] = []
    with opened(f"{redis_cluster.url}?cluster=1&timeout=0.5") as store:
        reply = store.run(hold("a", first, first._replace(id="3")))
        store.run(hold("b", second))
        epochs = tuple((each.address, each.epoch) for each in reply.balances)
        store.listen(heard.append)
        assert [each.settled for each in store.run(Settle("a", NEED, epochs)).balances] == [
            NEED
        ] * 2
        assert {each.address.id for each in store.accounts()} == {"1", "2", "3"}
        assert [each.address for each in store.accounts("u")] == [second]
        store.save({"a": b"1", "b": b"2"})
        assert store.load("b") == b"2"
        extensions = iter(range(10_000))
        assert soon(
            lambda: store.run(Extend(str(next(extensions)), first, NEED)) and heard, within_s=5
        )
        with redis_cluster.paused():
            start = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                store.run(hold("c", first))
            assert time.monotonic() - start < 3
        assert store.run(hold("c", first)).short is None
        redis_cluster.stop()
        with pytest.raises(StoreUnavailableError):
            store.run(hold("d", first))
