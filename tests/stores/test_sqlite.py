"""SQLiteStore: its file, its processes, its clock, and what can go wrong with them."""

import gc
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from budgetguard.errors import StoreUnavailableError
from budgetguard.spend import TURNS, ZERO
from budgetguard.stores.protocol import (
    KEPT_S,
    Address,
    Balance,
    Extend,
    Hold,
    Line,
    Read,
    Release,
    Renew,
    Settle,
)
from budgetguard.stores.sqlite import SQLiteStore
from budgetguard.stores.sqlite import session as sessions
from budgetguard.stores.sqlite.store import SWEEP_S

ONE = (0, 0, 0, 0, 1, 0)
ACCOUNT = Address("t", "b", "1")
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
ROOT = Path(__file__).parents[2]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path, clock=clock)
    yield store
    store.close()


def hold(store: SQLiteStore, id: str, address=ACCOUNT, limit=10**6, **options) -> Balance:
    reply = store.run(Hold(id, ONE, (Line(address, ((TURNS, limit),)),), **options))
    assert reply.short is None
    return reply.balances[0]


def settle(store: SQLiteStore, id: str, held: Balance, **options):
    return store.run(Settle(id, ONE, ((held.address, held.epoch),), **options))


def read(store: SQLiteStore, address: Address = ACCOUNT) -> Balance:
    return store.run(Read((address,))).balances[0]


# -------------------------------------------------------------------------------------------- URLs


def test_a_url_is_relative_or_with_four_slashes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = SQLiteStore("sqlite:///a b.db")
    absolute = SQLiteStore(f"sqlite:///{tmp_path}/a b.db")
    plain = SQLiteStore("a b.db")
    assert relative.url == absolute.url == plain.url == f"sqlite:///{tmp_path}/a b.db"
    hold(relative, "1")
    monkeypatch.chdir("/")
    for each in (relative, absolute, plain):
        assert read(each).held == ONE
        each.close()
    assert (tmp_path / "a b.db").exists()


def test_a_url_names_lease_and_timeout_in_seconds():
    store = SQLiteStore("sqlite:///x.db?lease=7.5&timeout=0.25")
    assert store.lease_s == 7.5
    assert store._session._timeout_s == 0.25
    assert store.url.endswith("x.db?lease=7.5&timeout=0.25")
    assert SQLiteStore("x.db").lease_s == 30
    assert SQLiteStore("x.db")._session._timeout_s == 5


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "store=None"),
        ("sqlite:///", "store=None"),
        (":memory:", "store=None"),
        ("sqlite:///:memory:", "store=None"),
        ("sqlite:///?lease=3", "store=None"),
        ("sqlite://", "three slashes"),
        ("sqlite://host/x.db", "three slashes"),
        ("sqlite:x.db", "three slashes"),
        ("x.db?lease=3", "sqlite:///x.db"),
        ("sqlite:///x.db?leese=3", "lease and timeout"),
        ("sqlite:///x.db?lease", "lease must be seconds"),
        ("sqlite:///x.db?lease=3&lease=4", "each once"),
        ("sqlite:///x.db?lease=0", "lease must be seconds"),
        ("sqlite:///x.db?lease=-1", "lease must be seconds"),
        ("sqlite:///x.db?lease=nan", "lease must be seconds"),
        ("sqlite:///x.db?lease=inf", "lease must be seconds"),
        ("sqlite:///x.db?lease=86401", "lease must be seconds"),
        ("sqlite:///x.db?timeout=soon", "timeout must be seconds"),
    ],
)
def test_a_url_that_would_misbehave_is_refused_with_what_to_do(url, said):
    with pytest.raises(ValueError, match=said):
        SQLiteStore(url)


# -------------------------------------------------------------------------------------------- file


def test_the_file_is_made_on_first_use_for_its_owner_only(store, path):
    assert not path.exists()
    before = os.umask(0)
    try:
        hold(store, "1")
    finally:
        os.umask(before)
    files = sorted(path.parent.iterdir())
    assert [each.name for each in files] == ["fleet.db", "fleet.db-shm", "fleet.db-wal"]
    assert {each.stat().st_mode & 0o777 for each in files} == {0o600}


def test_a_file_that_is_there_keeps_its_mode(store, path):
    path.touch(0o660)
    path.chmod(0o660)
    hold(store, "1")
    assert path.stat().st_mode & 0o777 == 0o660


def test_what_was_answered_survives_the_store(store, path, clock):
    before = hold(store, "1")
    store.save({"name": b"value"})
    store.close()
    again = SQLiteStore(path, clock=clock)
    assert read(again) == before
    assert again.load("name") == b"value"
    assert settle(again, "1", before).balances[0].settled == ONE
    again.close()


def test_a_closed_store_opens_again(store):
    store.close()
    hold(store, "1")
    store.close()
    store.close()
    assert read(store).held == ONE


def open_files(path: Path) -> int:
    """How many files of a store this process has open."""
    links = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(each).startswith(str(path)) for each in links)


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


@needs_proc
def test_a_store_nobody_knows_any_more_leaves_nothing_open(path):
    for each in range(20):
        hold(SQLiteStore(path), str(each))
    gc.collect()
    assert open_files(path) == 0


@needs_proc
def test_threads_share_one_connection(store, path):
    hold(store, "first")
    before = open_files(path)
    threads = [threading.Thread(target=hold, args=(store, str(each))) for each in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert open_files(path) == before
    assert read(store).held[TURNS] == 20 + 1


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_removed_is_made_anew_and_everybody_goes_on_with_it(
    path, tmp_path, replaced
):
    one, other, fresh = SQLiteStore(path), SQLiteStore(path), SQLiteStore(tmp_path / "fresh.db")
    held = hold(one, "1")
    hold(other, "2")
    if replaced:
        hold(fresh, "3")
        fresh.close()
        (tmp_path / "fresh.db").rename(path)
        Path(f"{path}-wal").unlink()
        Path(f"{path}-shm").unlink()
    else:
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink()
    assert read(one).held == (ONE if replaced else ZERO)
    assert settle(one, "1", held).balances[0].settled == ONE
    assert read(other).settled == ONE
    one.close()
    other.close()


# ------------------------------------------------------------------------------------------ errors


def unavailable(store: SQLiteStore) -> str:
    with pytest.raises(StoreUnavailableError) as caught:
        hold(store, "x")
    assert caught.value.store == store.url
    return caught.value.why


def test_a_database_locked_beyond_the_timeout_is_out_of_reach(path):
    store = SQLiteStore(f"sqlite:///{path}?timeout=0.2")
    hold(store, "1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    assert unavailable(store) == "database is locked"
    assert 0.2 <= time.monotonic() - start < 3
    for each in (store.accounts, lambda: store.load("x"), lambda: store.save({"x": b""})):
        with pytest.raises(StoreUnavailableError):
            each()
    other.execute("ROLLBACK")
    other.close()
    assert hold(store, "2").held[TURNS] == 2


def test_a_command_waits_for_the_lock_of_another_process(path):
    store = SQLiteStore(path)
    hold(store, "1")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.1, other.execute, ("COMMIT",))
    timer.start()
    assert hold(store, "2").held[TURNS] == 2
    timer.join()
    other.close()


def test_a_thread_that_waits_for_other_threads_gives_up_too(path):
    store = SQLiteStore(f"sqlite:///{path}?timeout=0.1")
    with store._session.transaction():
        caught: list[BaseException] = []

        def ask() -> None:
            try:
                read(store)
            except StoreUnavailableError as error:
                caught.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        assert len(caught) == 1


def test_a_finalizer_in_the_middle_of_a_command_does_not_wait_for_itself(store):
    hold(store, "1")
    with store._session.transaction():
        start = time.monotonic()
        assert "this thread" in unavailable(store)
        store.close()
        assert time.monotonic() - start < 4
    assert read(store).held == ONE


def test_a_missing_directory_is_out_of_reach(tmp_path):
    assert unavailable(SQLiteStore(tmp_path / "none" / "x.db")) == (
        "its directory does not exist: make it, or name another"
    )


def test_a_directory_is_no_file(tmp_path):
    assert unavailable(SQLiteStore(tmp_path)) == "it is a directory: name a file in it"


def test_a_full_disk_changes_nothing_and_is_out_of_reach(store, path):
    hold(store, "1")
    db = store._session._db
    assert db is not None
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailableError, match="full"):
        store.save({"large": bytes(10**6)})
    assert store.load("large") is None
    assert read(store).held == ONE


def test_a_read_only_database_is_out_of_reach(store):
    hold(store, "1")
    db = store._session._db
    assert db is not None
    db.execute("PRAGMA query_only = ON")
    assert "readonly" in unavailable(store)
    assert hold(store, "2").held[TURNS] == 2


def test_a_file_that_is_no_database_is_left_as_it_is(store, path):
    path.write_text("precious " * 1_000)
    assert unavailable(store) == "file is not a database"
    assert path.read_text() == "precious " * 1_000


def test_the_database_of_another_application_is_left_as_it_is(store, path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = path.read_bytes()
    assert "another application" in unavailable(store)
    assert path.read_bytes() == before


def test_a_file_of_a_newer_version_is_left_as_it_is(store, path):
    hold(store, "1")
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 7")
    db.close()
    assert "schema version 7, and this budgetguard knows 1" in unavailable(store)


def test_an_interrupted_command_changes_nothing(store, monkeypatch):
    hold(store, "1")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("budgetguard.stores.sqlite.ledger.Ledger.reserve", interrupt)
        with pytest.raises(KeyboardInterrupt):
            hold(store, "2", loop="l")
    assert read(store).held == ONE
    assert hold(store, "2").held[TURNS] == 2


# ------------------------------------------------------------------------------------------- clock


def test_a_lease_runs_out_to_the_moment(store, clock):
    hold(store, "1")
    clock.now += 29.999
    assert read(store).held == ONE
    assert read(store).lease_left_s == pytest.approx(0.001)
    clock.now += 0.001
    assert (read(store).held, read(store).released) == (ZERO, 1)


def test_leases_tell_the_first_that_may_run_out(store, clock):
    hold(store, "1")
    clock.now += 10
    hold(store, "2")
    assert read(store).lease_left_s == 20
    store.run(Renew(ACCOUNT, ("1",), ()))
    assert read(store).lease_left_s == 30
    store.run(Release("1", (ACCOUNT,)))
    store.run(Release("2", (ACCOUNT,)))
    assert read(store).lease_left_s is None


def test_a_hold_that_ran_out_is_not_there_to_be_released(store, clock):
    hold(store, "1")
    clock.now += 30
    reply = store.run(Release("1", (ACCOUNT,), "l", (ONE,)))
    assert reply.repeated
    assert (reply.balances[0].reserved, reply.balances[0].released) == (ZERO, 1)


def test_a_hold_that_ran_out_makes_room_in_the_same_command(store, clock):
    hold(store, "1", limit=1)
    clock.now += 30
    assert hold(store, "2", limit=1).released == 1


def test_a_late_settlement_is_known_for_a_day_and_then_taken_for_a_repeated_one(store, clock):
    held = hold(store, "1")
    hold(store, "2")
    clock.now += 31
    assert read(store).released == 2
    clock.now += KEPT_S - 60
    assert settle(store, "1", held).late
    clock.now += 61 + SWEEP_S
    assert settle(store, "2", held).repeated


def test_a_settlement_without_a_hold_is_known_for_a_day(store, clock):
    blank = read(store)
    settle(store, "1", blank, unheld=True)
    clock.now += KEPT_S - 60
    assert settle(store, "1", blank, unheld=True).repeated
    hold(store, "2")
    clock.now += 61 + SWEEP_S
    assert not settle(store, "1", blank, unheld=True).repeated


def test_an_account_is_forgotten_a_day_after_its_last_use(store, clock):
    before = settle(store, "1", hold(store, "1")).balances[0]
    other = Address("t", "other", "1")
    clock.now += KEPT_S
    hold(store, "2", other)
    assert read(store) == before
    clock.now += KEPT_S + 3 * SWEEP_S
    assert read(store) == Balance(ACCOUNT)
    assert store.accounts() == []
    assert settle(store, "1", before).balances[0].epoch > before.epoch


def test_looking_at_an_account_and_being_refused_are_uses(store, clock):
    settle(store, "1", hold(store, "1"))
    for _ in range(30):
        clock.now += KEPT_S / 2
        assert read(store).settled == ONE
        clock.now += KEPT_S / 2
        line = Line(ACCOUNT, ((TURNS, 1),))
        assert store.run(Hold("2", ONE, (line,))).short == (0, TURNS)


def test_extensions_live_as_long_as_their_account(store, clock):
    store.run(Extend("e", ACCOUNT, ONE))
    for _ in range(5):
        clock.now += KEPT_S - 60
        assert store.run(Extend("e", ACCOUNT, ONE)).balances[0].extra == ONE
    clock.now += 2 * KEPT_S
    assert store.run(Extend("e", ACCOUNT, ONE)).balances[0].extra == ONE


def test_an_account_is_kept_a_day_longer_than_its_window(store, clock):
    month = Address("t", "b", "1", "2026-11")
    settle(store, "1", hold(store, "1", month))
    end = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    clock.now = end + KEPT_S - 1
    assert [each.address for each in store.accounts()] == [month]
    read(store)
    clock.now = end + KEPT_S + SWEEP_S
    read(store)
    assert store.accounts() == []


def test_a_window_ends_by_the_clock_of_the_store(store, clock):
    hour = Address("t", "b", "1", "2026-11-20T12")
    held = hold(store, "1", hour)
    clock.now += 3599
    assert read(store, hour).released == 1
    clock.now += 1
    reply = store.run(Hold("2", ONE, (Line(hour),)))
    following = hour._replace(window="2026-11-20T13")
    assert (reply.rolled, reply.balances) == (True, (Balance(following),))
    hold(store, "2", following)
    reply = store.run(Read((hour,)))
    assert (reply.rolled, reply.balances) == (True, (read(store, following),))
    assert settle(store, "1", held).balances[0].address == hour
    assert [each.address.window for each in store.accounts()] == ["2026-11-20T12", "2026-11-20T13"]


def test_amounts_have_no_upper_bound(store):
    large = (10**30, 0, 0, 0, 1, 10**40)
    store.run(Hold("1", large, (Line(ACCOUNT, ((TURNS, 10**30),)),)))
    assert read(store).held == large


# --------------------------------------------------------------------------------------- processes


def take_turns(path: Path, name: str, number: int) -> int:
    """How many of so many holds a process was granted."""
    store = SQLiteStore(path)
    line = Line(ACCOUNT, ((TURNS, 150),))
    granted = 0
    for each in range(number):
        reply = store.run(Hold(f"{name}{each}", ONE, (line,)))
        if reply.short is None:
            granted += 1
            settle(store, f"{name}{each}", reply.balances[0])
    return granted


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_sqlite import take_turns
print(take_turns(Path(sys.argv[3]), sys.argv[4], 100))
"""


def test_processes_never_pass_the_limit_together(path):
    folder = str(Path(__file__).parent)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(ROOT), folder, str(path), name],
            stdout=subprocess.PIPE,
        )
        for name in "abc"
    ]
    granted = [int(each.communicate(timeout=30)[0]) for each in workers]
    assert sum(granted) == 150
    store = SQLiteStore(path)
    assert read(store).settled[TURNS] == 150
    store.close()


def test_a_killed_process_leaves_its_hold_to_the_lease(path):
    script = (
        "import os, sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_sqlite import *\n"
        "hold(SQLiteStore(sys.argv[3]), '1')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    folder = str(Path(__file__).parent)
    died = subprocess.run([sys.executable, "-c", script, str(ROOT), folder, str(path)], check=False)
    assert died.returncode == -9
    store = SQLiteStore(path)
    assert read(store).held == ONE
    store.close()
    later = SQLiteStore(path, clock=lambda: time.time() + 31)
    assert read(later).released == 1
    later.close()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
def test_a_forked_child_opens_its_own_connection(store, path):
    hold(store, "parent")
    assert store._session._db is not None
    child = os.fork()
    if not child:
        try:
            assert store._session._db is None
            hold(store, "child")
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read(store).held[TURNS] == 2


@needs_fork
def test_a_child_goes_on_when_its_parent_has_closed_the_file(path, clock):
    store = SQLiteStore(path, clock=clock)
    hold(store, "parent")
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            hold(store, "before")
            os.write(tell, b"1")
            while not (path.parent / "closed").exists():
                time.sleep(0.005)
            hold(store, "after")
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.read(told, 1)
    hold(store, "again")
    store.close()
    (path.parent / "closed").touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(told)
    os.close(tell)
    assert read(store).held[TURNS] == 4
    store.close()


@needs_fork
def test_a_fork_waits_for_the_command_of_another_thread(store):
    hold(store, "1")
    inside, go_on = threading.Event(), threading.Event()

    def command() -> None:
        with store._session.transaction() as db:
            inside.set()
            go_on.wait()
            db.execute("INSERT INTO saved VALUES ('x', 'y')")

    thread = threading.Thread(target=command)
    thread.start()
    inside.wait()
    threading.Timer(0.05, go_on.set).start()
    child = os.fork()
    if not child:
        os._exit(0 if store.load("x") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()


def test_a_fork_that_python_was_not_told_of_is_noticed(store, monkeypatch):
    hold(store, "1")
    inherited = store._session._db
    monkeypatch.setattr(store._session, "_process", -1)
    assert hold(store, "2").held[TURNS] == 2
    assert store._session._db is not inherited
    assert sessions._PARENTS.pop() is inherited
    assert inherited is not None
    inherited.close()


def test_spawned_workers_open_the_store_by_its_url(path):
    store = SQLiteStore(path)
    hold(store, "1")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seen = pool.apply(_held_in, (store.url,))
    assert seen == 1
    store.close()


def _held_in(url: str) -> int:
    return read(SQLiteStore(url)).held[TURNS]
