"""The clients that the tests of the loopback provider share."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import anthropic
import openai
import pytest

from budgetguard.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HI: list[Any] = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def serve() -> Iterator[Callable[[Any], LoopbackProvider]]:
    """Starts providers, and closes them when the test ends."""
    opened: list[LoopbackProvider] = []

    def start(script: Any) -> LoopbackProvider:
        opened.append(LoopbackProvider(script))
        return opened[-1]

    yield start
    for provider in opened:
        provider.close()


# One client of each vendor for all tests: making one reads every certificate of the machine.
@pytest.fixture(scope="session")
def openai_client() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url="http://127.0.0.1", api_key="sk-secret", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def anthropic_client() -> Iterator[anthropic.Anthropic]:
    known: Any = {"base_url": "http://127.0.0.1", "api_key": "sk-secret", "max_retries": 0}
    with anthropic.Anthropic(**known) as client:
        yield client


@pytest.fixture
def gpt(openai_client):
    """An OpenAI client of the given provider."""
    return lambda provider, **options: openai_client.with_options(
        base_url=provider.openai_url, **options
    )


@pytest.fixture
def claude(anthropic_client):
    """An Anthropic client of the given provider."""
    return lambda provider: anthropic_client.with_options(base_url=provider.anthropic_url)


@pytest.fixture
def ask_gpt(gpt):
    """Asks the given provider through OpenAI's client."""
    usual = {"model": "gpt-4o", "messages": HI}
    return lambda provider, **options: gpt(provider).chat.completions.create(**usual | options)


@pytest.fixture
def stream_gpt(ask_gpt):
    """All chunks of a streamed answer."""
    return lambda provider, **options: list(ask_gpt(provider, stream=True, **options))


@pytest.fixture
def ask_claude(claude):
    """Asks the given provider through Anthropic's client."""
    usual = {"model": "claude-sonnet-4-5", "messages": HI, "max_tokens": 4096}
    return lambda provider, **options: claude(provider).messages.create(**usual | options)


class Answer(NamedTuple):
    status: int
    body: Any


def send(url: str, body: object, headers: dict[str, str] | None = None) -> Answer:
    parts = urlsplit(url)
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("POST", parts.path, payload, headers or {"authorization": "Bearer k"})
        response = connection.getresponse()
        return Answer(response.status, json.loads(response.read()))
    finally:
        connection.close()


@pytest.fixture(scope="session")
def post() -> Callable[..., Answer]:
    """A bare HTTP POST, for what the vendors' clients would not send."""
    return send
