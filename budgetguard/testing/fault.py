"""Fault: what goes wrong with one request, on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from budgetguard.testing.refusal import Refusal

OK: Final = 200

_MESSAGES: Final = {
    429: "Rate limit reached.",
    529: "Overloaded",
}
_ANY: Final = "The server had an error while processing your request. Sorry about that!"


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request; without arguments nothing does."""

    status: int = OK
    """Answer with this HTTP error instead; 200: answer."""
    delay_s: float = 0.0
    """Seconds to wait first."""
    cut_after: int | None = None
    """Close the connection after that many events of a stream, or halfway through a JSON answer;
    `None`: do not."""
    no_usage: bool = False
    """Leave the usage out of the answer. It is billed and logged all the same."""
    retry_after: float | None = None
    """Seconds for the `retry-after` header of an error; `None`: no such header."""

    def refuse(self) -> None:
        """Raise the error this fault stands for, if it stands for one.

        Raises:
            Refusal: Unless `status` is 200.
        """
        if self.status != OK:
            raise Refusal(
                _MESSAGES.get(self.status, _ANY), status=self.status, retry_after=self.retry_after
            )


NO_FAULT: Final = Fault()
