"""A store in Redis: the accounts of all workers that reach the same server or cluster.

Invariant: a command is one script, so one round trip and one atomic step. Each is idempotent by the
id in it, which is why a connection that turns out to be gone may simply be tried again.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from budgetguard.errors import StoreUnavailableError
from budgetguard.stores.redis_listener import Listener
from budgetguard.stores.redis_scripts import (
    accounts_like,
    address_of,
    learned_key,
    listing,
    reply,
    request,
)
from budgetguard.stores.redis_url import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from budgetguard.stores.protocol import Address, Balance, Command, Reply
    from budgetguard.stores.redis_scripts import Request
    from budgetguard.stores.redis_url import RedisUrl

_LISTED: Final = 200
"""How many accounts are listed in one command, so that others need not wait long."""

_STORES: Final[weakref.WeakSet[RedisStore]] = weakref.WeakSet()
"""Every store of this process, to be told of a fork."""


def _after_fork() -> None:
    for store in list(_STORES):
        store.forget_connections()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class RedisStore:
    """Keeps accounts in a Redis, or with `cluster=1` in a Redis Cluster.

    `redis://host:6379/0?lease=30&timeout=2`: `lease` is how many seconds a hold lives if its worker
    does not renew it, `timeout` how many seconds connecting and a command may take (twice that in a
    cluster, which is asked anew who keeps what). `rediss://` encrypts; `ssl_*`, `client_name` and
    `max_connections` go to redis-py.

    Raises:
        ImportError: redis-py is not installed.
        ValueError: The URL has an unknown or invalid part.
    """

    poll_s = (0.1, 0.25)  # waiting admissions are told; this is for what they miss

    def __init__(self, url: str) -> None:
        self._redis = _import_redis()
        self._parsed = parse(url)
        self.url = self._parsed.name
        self.lease_s = self._parsed.lease_s
        self._failures: tuple[type[Exception], ...] = (
            self._redis.exceptions.RedisError,
            self._redis.exceptions.RedisClusterException,
            OSError,
        )
        self._wake: Callable[[Address], None] | None = None
        self.forget_connections()
        _STORES.add(self)

    def run(self, command: Command) -> Reply:
        """Do one command in one atomic step."""
        asked = request(command, self.lease_s)
        return reply(asked.addresses, self._evaluate(asked))

    def listen(self, wake: Callable[[Address], None]) -> None:
        """Call `wake`, in a thread of the store's, when room may have come free in an account."""
        with self._lock:
            self._wake = wake
            self._listen_here()

    def accounts(self, tenant: str | None = None) -> list[Balance]:
        """Every account, or those of one tenant, current windows and older ones."""
        tenants: dict[str, list[Address]] = {}
        for address in sorted({address_of(key) for key in self._keys(accounts_like(tenant))}):
            tenants.setdefault(address.tenant, []).append(address)
        balances = (balance for each in tenants.values() for balance in self._balances(each))
        return [balance for balance in balances if balance.epoch]

    def load(self, name: str) -> bytes | None:
        """What was last saved under that name."""
        return self._ask("GET", learned_key(name))

    def save(self, values: Mapping[str, bytes]) -> None:
        """Keep values by name, until they are replaced."""
        if values:
            pairs = ((learned_key(name), value) for name, value in values.items())
            self._ask("MSET", *(item for pair in pairs for item in pair))

    def close(self) -> None:
        """End connections and threads."""
        with self._lock:
            listener, client = self._listener, self._client
            self._wake = self._listener = self._client = None
        if listener is not None:
            listener.close()
        if client is not None:
            client.close()

    def forget_connections(self) -> None:
        """Start anew, as a forked child must: sockets and threads are the parent's."""
        self._lock = threading.Lock()
        """Protects the making of what follows."""
        self._client: Any = None
        self._listener: Listener | None = None

    def _evaluate(self, asked: Request) -> bytes:
        """Run a script by its name, or by its text on a server that has not seen it."""
        rest = (len(asked.keys), *asked.keys, *asked.arguments)
        try:
            client = self._client or self._connect_here()
            try:
                return client.execute_command("EVALSHA", asked.script.sha, *rest)
            except self._redis.exceptions.NoScriptError:
                return client.execute_command("EVAL", asked.script.text, *rest)
        except self._failures as error:
            raise StoreUnavailableError(self.url, self._reason(error)) from error

    def _ask(self, *command: str | bytes) -> Any:
        try:
            return (self._client or self._connect_here()).execute_command(*command)
        except self._failures as error:
            raise StoreUnavailableError(self.url, self._reason(error)) from error

    def _keys(self, pattern: str) -> Iterable[str]:
        try:
            client = self._client or self._connect_here()
            return [key.decode() for key in client.scan_iter(match=pattern, count=1000)]
        except self._failures as error:
            raise StoreUnavailableError(self.url, self._reason(error)) from error

    def _balances(self, addresses: list[Address]) -> Iterable[Balance]:
        """The balances of accounts of one tenant."""
        for first in range(0, len(addresses), _LISTED):
            asked = listing(tuple(addresses[first : first + _LISTED]))
            yield from reply(asked.addresses, self._evaluate(asked)).balances

    def _connect_here(self) -> Any:
        """The client of this process; a listener too, if there was one before a fork."""
        with self._lock:
            if self._client is None:
                self._client = _connect(self._redis, self._parsed)
                self._listen_here()
            return self._client

    def _listen_here(self) -> None:
        if self._wake is not None and self._listener is None:
            # Nothing else would tell that the other end is gone without a word.
            connect = partial(_connect, self._redis, self._parsed, health_check_interval=5)
            self._listener = Listener(connect, self._wake)
            self._listener.start()

    def _reason(self, error: Exception) -> str:
        """Why it is out of reach, in a few words."""
        if isinstance(error, self._redis.exceptions.TimeoutError):
            return f"no answer within {self._parsed.timeout_s:g} s"
        return str(error).partition("\n")[0][:200] or type(error).__name__


def _import_redis() -> Any:
    try:
        import redis  # noqa: PLC0415 -- an extra: only who names a Redis needs it
    except ImportError as error:
        raise ImportError(
            'a budget in Redis needs redis-py: pip install "agent-budgetguard[redis]"'
        ) from error
    return redis


def _connect(redis: Any, parsed: RedisUrl, **options: Any) -> Any:
    """A client of redis-py, which connects when it is first used; of a cluster, at once.

    A connection that is gone is made anew once; what was late is not asked again, so that nobody
    waits twice.
    """
    kind = redis.cluster.RedisCluster if parsed.cluster else redis.Redis
    gone = (redis.exceptions.ConnectionError,)
    return kind.from_url(
        parsed.address,
        socket_timeout=parsed.timeout_s,
        socket_connect_timeout=parsed.timeout_s,
        socket_keepalive=True,
        encoding_errors="surrogatepass",
        max_connections=10_000,  # one for each thread that asks at the same time
        protocol=2,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 1, supported_errors=gone),
        **options,
    )
