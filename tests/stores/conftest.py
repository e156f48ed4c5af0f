"""Real Redis servers on loopback ports; each process of pytest starts its own."""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _free_port() -> int:
    """A port that no outgoing connection is given while the server is down; of a cluster, too,
    whose servers talk to each other 10,000 ports above."""
    for port in random.SystemRandom().sample(range(12_000, 22_000), 100):
        try:
            for each in (port, port + 10_000):
                with socket.socket() as free:
                    free.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port
    raise OSError("no free port")


class RedisServer:
    """A redis-server that a test may stop, start again (empty), or pause."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--save", "", "--appendonly", "no", *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        give_up = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended at once"
            assert time.monotonic() < give_up, "redis-server does not answer"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it, paused or not; it keeps nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It takes connections, and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def eventually(condition: Callable[[], object], within_s: float = 10) -> bool:
    """Whether it comes true in time."""
    give_up = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.002)
    return True


def need_redis() -> None:
    """Skip where there is no Redis, unless it was promised that there is one."""
    if shutil.which("redis-server") is None or not hasattr(signal, "SIGSTOP"):
        if os.environ.get("BUDGETGUARD_NEEDS_REDIS") == "1":
            pytest.fail("BUDGETGUARD_NEEDS_REDIS=1, and no redis-server is on the PATH")
        pytest.skip("no redis-server is on the PATH")


def running(folder: Path, *options: str) -> Iterator[RedisServer]:
    need_redis()
    server = RedisServer(folder, *options)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The one server of tests that leave it running."""
    yield from running(tmp_path_factory.mktemp("redis"))


@pytest.fixture(scope="session")
def redis_url(shared_redis: RedisServer) -> str:
    return shared_redis.url


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to stop and pause."""
    yield from running(tmp_path)


@pytest.fixture
def redis_cluster(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis Cluster of one server."""
    import redis

    for server in running(tmp_path, "--cluster-enabled", "yes"):
        with redis.Redis(port=server.port) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            give_up = time.monotonic() + 10
            while b"cluster_state:ok" not in admin.execute_command("CLUSTER", "INFO"):
                assert time.monotonic() < give_up, "the cluster does not come up"
                time.sleep(0.01)
        yield server


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own that keeps its data when it is started again."""
    yield from running(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
