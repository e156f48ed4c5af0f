"""Refusal: an HTTP error in the words and the shape of the vendor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from budgetguard.testing.request import Api
    from budgetguard.testing.shapes import Json

_OPENAI_TYPES: Final = {429: "requests"}
_OPENAI_CODES: Final = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_SERVER_ERROR: Final = 500


class Refusal(Exception):  # noqa: N818  it is an answer, not a failure of this program
    """The provider answers this request with an error.

    Args:
        message: What the vendor says.
        status: The HTTP status.
        param: OpenAI's `param`: the parameter at fault.
        code: OpenAI's `code`.
        retry: Whether the client may try again; `False` sends `x-should-retry: false`.
        retry_after: Seconds for the `retry-after` header; `None`: no header.
    """

    def __init__(  # noqa: PLR0913  one answer, all of its parts
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry: bool = True,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.headers: dict[str, str] = {} if retry else {"x-should-retry": "false"}
        if retry_after is not None:
            self.headers["retry-after"] = f"{retry_after:g}"

    def body(self, api: Api) -> Json:
        """The error object in the form of that API."""
        server = self.status >= _SERVER_ERROR
        if api == "anthropic":
            kind = "api_error" if server else "invalid_request_error"
            error = {"type": _ANTHROPIC_TYPES.get(self.status, kind), "message": self.message}
            return {"type": "error", "error": error, "request_id": "req_loopback"}
        kind = "server_error" if server else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _OPENAI_TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.code or _OPENAI_CODES.get(self.status),
            }
        }
