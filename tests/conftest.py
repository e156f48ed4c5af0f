"""What every test runs under: reproducible properties, and no network but loopback."""

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from budgetguard.forecast import FORECAST

# HYPOTHESIS_PROFILE=bench looks harder, and for new examples each time.
settings.register_profile(
    "default", derandomize=True, database=None, deadline=None, max_examples=50
)
settings.register_profile("bench", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A developer's own tracing must neither slow the tests down nor see them.
for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2"):
    os.environ[name] = "false"


class NetworkUsedError(OSError):
    """Something tried to reach another machine; to the code it is the error of an offline one."""


def _is_local(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _guarded(
    original: Callable[..., Any], host_of: Callable[..., Any], attempts: list[str]
) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        host = host_of(*args, **kwargs)
        if _is_local(host):
            return original(*args, **kwargs)
        attempts.append(f"{original.__name__} to {host!r}")
        raise NetworkUsedError(attempts[-1])

    return guarded


def _host_of_connection(sock: socket.socket, address: Any) -> str | None:
    return address[0] if sock.family in {socket.AF_INET, socket.AF_INET6} else None


def _host_of_lookup(host: str | bytes | None, *_: Any, **__: Any) -> str | bytes | None:
    return host


@pytest.fixture(autouse=True)
def nothing_learned() -> None:
    """What one test taught the forecast, no other one knows."""
    FORECAST.forget()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuses every other machine, and fails the test that tried even if it hid the refusal."""
    attempts: list[str] = []
    for owner, attribute, host_of in (
        (socket.socket, "connect", _host_of_connection),
        (socket.socket, "connect_ex", _host_of_connection),
        (socket, "getaddrinfo", _host_of_lookup),
    ):
        original = getattr(owner, attribute)
        monkeypatch.setattr(owner, attribute, _guarded(original, host_of, attempts))
    yield
    assert not attempts, f"this test used the network: {', '.join(attempts)}"
