"""LoopbackProvider: a model provider on this machine, for tests that must not mock the client.

Real clients talk to it over real HTTP, so what a test sees is what the client does: its parameters,
its parsing, its retries. It refuses what the real APIs refuse and keeps books of its own, so a test
can compare what a program believes it spent with what was billed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from budgetguard.testing.hold import Hold
from budgetguard.testing.ledger import Exchange, Ledger
from budgetguard.testing.model import Model
from budgetguard.testing.server import Server

if TYPE_CHECKING:
    from types import TracebackType

    from budgetguard.testing.fault import Fault
    from budgetguard.testing.script import Script


class LoopbackProvider:
    """OpenAI Chat Completions and Anthropic Messages on a free port of 127.0.0.1.

    ```python
    with LoopbackProvider("Hello.") as provider:
        model = ChatOpenAI(model="gpt-4o", base_url=provider.openai_url, api_key="test")
        model.invoke("Hi")
        assert provider.calls == 1
    ```

    It serves from construction to `close()`; any API key but an empty one will do.

    Args:
        script: What the model says. A text or a `Reply` is said every time; of an iterable, one
            reply after the other (an exhausted one answers 500); a function is asked once for each
            choice and gets the `Request`.
    """

    def __init__(self, script: Script) -> None:
        self._model = Model(script)
        self._ledger = Ledger()
        self._server = Server(self._model, self._ledger)
        self._url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def openai_url(self) -> str:
        """The `base_url` for clients of OpenAI Chat Completions."""
        return f"{self._url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The `base_url` for clients of Anthropic Messages."""
        return self._url

    def inject(self, fault: Fault, *, times: int = 1) -> None:
        """Have something go wrong with the next requests, one fault each, in the order injected."""
        self._model.inject(fault, times)

    def hold(self, *, after_chunks: int = 0) -> Hold:
        """Keep the requests that come from now on in flight until they are released.

        ```python
        with provider.hold() as held:
            start_fifty_calls()
            held.wait_for(50)
            held.release()
        ```

        Args:
            after_chunks: Hold streams after that many events; 0: every request, once it is found
                valid and before anything is said.
        """
        hold = Hold(after_chunks=after_chunks)
        self._model.keep(hold)
        return hold

    def wait_idle(self, *, timeout: float = 5.0) -> None:
        """Wait until no request is in flight, so that a broken off stream is in the log.

        Args:
            timeout: Seconds after which it gives up.

        Raises:
            TimeoutError: A request is still in flight.
        """
        if not self._ledger.wait_idle(timeout):
            raise TimeoutError(f"requests are still in flight after {timeout} s")

    @property
    def requests(self) -> int:
        """How many HTTP requests arrived, refused ones and retries included."""
        return self._ledger.requests

    @property
    def calls(self) -> int:
        """How many requests were answered with 200, streams that were cut included."""
        return self._ledger.calls

    @property
    def input_tokens(self) -> int:
        """Input tokens billed, cached ones included."""
        return self._ledger.total.input_tokens

    @property
    def output_tokens(self) -> int:
        """Output tokens billed, reasoning included."""
        return self._ledger.total.output_tokens

    @property
    def reasoning_tokens(self) -> int:
        """Reasoning tokens billed, a part of the output tokens."""
        return self._ledger.total.reasoning_tokens

    @property
    def tokens(self) -> int:
        """Input and output tokens billed."""
        return self._ledger.total.tokens

    @property
    def log(self) -> list[Exchange]:
        """Every exchange so far, in the order they ended. No API key is in it."""
        return self._ledger.log

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The request bodies so far, in the order of the log."""
        return [exchange.request.body for exchange in self.log]

    def close(self) -> None:
        """Release what is held, hang up, and end every thread. Closing twice does nothing."""
        self._model.release()
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
