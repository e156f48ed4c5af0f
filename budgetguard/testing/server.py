"""Server: HTTP/1.1 on a loopback socket, one thread a connection, for the model and its ledger."""

from __future__ import annotations

import json
import selectors
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, cast

from budgetguard.testing.fault import OK
from budgetguard.testing.ledger import Exchange, Ledger
from budgetguard.testing.refusal import Refusal
from budgetguard.testing.request import Api, Request
from budgetguard.testing.shapes import Json, table
from budgetguard.testing.usage import Usage

if TYPE_CHECKING:
    from budgetguard.testing.event import Event
    from budgetguard.testing.model import Model, Performance

_APIS: Final[dict[str, Api]] = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}


class Server(ThreadingHTTPServer):
    """Accepts connections and ends every one of its threads when it closes."""

    daemon_threads = True
    # Hundreds of clients connect at once; the default of 5 would make them wait for a retry.
    request_queue_size = 1024

    def __init__(self, model: Model, ledger: Ledger) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model = model
        self.ledger = ledger
        self._lock = threading.Lock()  # protects what is open
        self._open: dict[threading.Thread, socket.socket] = {}
        self._acceptor = threading.Thread(
            target=self.serve_forever, args=(0.02,), name="loopback-provider", daemon=True
        )
        self._acceptor.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own, known before it starts."""
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self._lock:
            self._open[thread] = request
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._open[threading.current_thread()]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away: the ledger has it."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stop accepting, hang up on everybody, and wait for the threads to end."""
        self.shutdown()
        self._acceptor.join()
        self.server_close()
        with self._lock:
            still_open = dict(self._open)
        for open_socket in still_open.values():
            _hang_up(open_socket)
        for thread in still_open:
            thread.join(timeout=5)


class Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, asks the model, writes answers, keeps the ledger."""

    protocol_version = "HTTP/1.1"
    server_version = "loopback-provider"
    disable_nagle_algorithm = True  # an event of a stream must not wait for the next one
    wbufsize = -1  # head and body in one packet; everything is flushed by hand

    @property
    def _server(self) -> Server:
        return cast("Server", self.server)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Say nothing on stderr."""

    def do_POST(self) -> None:
        """Answer one request."""
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        api = _APIS.get(self.path.partition("?")[0])
        index = self._server.ledger.arrive()
        try:
            if api is None:
                refusal = Refusal(f"Unknown request URL: POST {self.path}", status=404)
                self._write_json(404, refusal.body("openai"))
            else:
                self._exchange(api, raw, index)
        except OSError:
            self.close_connection = True
        finally:
            self._server.ledger.leave()

    def _exchange(self, api: Api, raw: bytes, index: int) -> None:
        request = Request.parse(api, _parsed(raw), index=index)
        try:
            performance = self._perform(request)
        except Refusal as refusal:
            self._server.ledger.record(Exchange(request, refusal.status, Usage()))
            self._write_json(refusal.status, refusal.body(api), refusal.headers)
            return
        if request.stream:
            self._send_stream(performance)
        else:
            self._send_json(performance)

    def _perform(self, request: Request) -> Performance:
        self._check_key(request.api)
        model = self._server.model
        fault = model.next_fault()
        self._wait(fault.delay_s)
        fault.refuse()
        performance = model.perform(request, fault)
        self._wait(performance.delay_s)
        return performance

    def _check_key(self, api: Api) -> None:
        bearer = self.headers.get("authorization", "").removeprefix("Bearer").strip()
        if api == "openai" and not bearer:
            raise Refusal("You didn't provide an API key.", status=401)
        if api == "anthropic" and not (bearer or self.headers.get("x-api-key")):
            raise Refusal("x-api-key header is required", status=401)

    def _send_json(self, performance: Performance) -> None:
        gone = self._gone()
        exchange = Exchange(performance.request, OK, performance.usage, disconnected=gone)
        self._server.ledger.record(exchange)
        cut = performance.fault.cut_after is not None
        if not gone:
            self._write_json(OK, performance.body(), cut=cut)

    def _send_stream(self, performance: Performance) -> None:
        events = performance.events()
        cut_after = performance.fault.cut_after
        stop = len(events) if cut_after is None else min(cut_after, len(events))
        sent = 0
        try:
            self._write_head(OK, {"content-type": "text/event-stream", "cache-control": "no-cache"})
            for sent, event in enumerate(events[:stop]):
                self._before_chunk(performance, sent)
                if sent == len(events) - 1:
                    self._record(performance, events, len(events))
                self._write_chunk(event.encode())
        except OSError:
            self._record(performance, events, sent, gone=True)
            raise
        if stop < len(events):
            self._record(performance, events, stop)
            self.close_connection = True
        else:
            self._write_chunk(b"")

    def _before_chunk(self, performance: Performance, sent: int) -> None:
        if sent:
            self._server.model.pause(sent=sent)
            self._wait(performance.chunk_delay_s)
        if self._gone():
            raise ConnectionAbortedError

    def _record(
        self, performance: Performance, events: list[Event], sent: int, *, gone: bool = False
    ) -> None:
        usage = performance.usage_after(events, sent)
        self._server.ledger.record(
            Exchange(performance.request, OK, usage, disconnected=gone, chunks_sent=sent)
        )

    def _wait(self, seconds: float) -> None:
        """Wait, but no longer than the client does."""
        end = time.monotonic() + seconds
        if seconds > 0 and self._readable(seconds) and not self._gone():
            time.sleep(max(0.0, end - time.monotonic()))

    def _gone(self) -> bool:
        """Whether the client has hung up: its end of the stream reads as finished."""
        try:
            return self._readable(0) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def _readable(self, seconds: float) -> bool:
        # Not select.select: it fails on file descriptors above 1023.
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def _write_json(
        self, status: int, body: Json, headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        payload = json.dumps(body).encode()
        length = {"content-type": "application/json", "content-length": str(len(payload))}
        self._write_head(status, length | (headers or {}))
        self.wfile.write(payload[: len(payload) // 2] if cut else payload)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut

    def _write_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("request-id", "req_loopback")
        self.send_header("x-request-id", "req_loopback")
        if "content-length" not in headers:
            self.send_header("transfer-encoding", "chunked")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _write_chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def _parsed(raw: bytes) -> Json:
    try:
        return table(json.loads(raw))
    except ValueError:
        return {}


def _hang_up(open_socket: socket.socket) -> None:
    try:
        open_socket.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it was closed already
