"""What a failed call cost: nothing, a turn, what its error says, or nobody knows."""

from __future__ import annotations

from typing import Any, Final

from budgetguard import Usage

_NEVER_SENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
_FIRST_ERROR: Final = 400


def was_never_sent(error: BaseException) -> bool:
    """Whether no connection was made, or the client refused the arguments of the call."""
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in _NEVER_SENT:
            return True
        cause = cause.__cause__  # not __context__: an older error is not this call's
    return False


def is_error_answer(error: BaseException) -> bool:
    """Whether the provider answered with an error (4xx, 5xx), which costs no tokens."""
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and status >= _FIRST_ERROR


def bill_of(error: BaseException) -> Usage | None:
    """The bill that an error carries: OpenAI's, for a structured answer that was cut short."""
    usage: Any = getattr(getattr(error, "completion", None), "usage", None)
    sent, received = (
        getattr(usage, "prompt_tokens", None),
        getattr(usage, "completion_tokens", None),
    )
    if not isinstance(sent, int) or not isinstance(received, int):
        return None
    details = getattr(usage, "completion_tokens_details", None)
    reasoning = getattr(details, "reasoning_tokens", None) or 0
    return Usage(sent, received, min(reasoning, received), truncated=True)
