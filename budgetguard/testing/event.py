"""Event: one server-sent event of a stream, and how much of the answer it carries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgetguard.testing.shapes import Json


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    data: Json | None
    """The payload; `None`: OpenAI's closing `[DONE]`."""
    name: str | None = None
    """The name on the `event:` line; `None`: no such line."""
    tokens: int = 0
    """How many tokens of the visible output it carries, as the provider counts text."""

    def encode(self) -> bytes:
        """The event as it goes over the wire."""
        head = "" if self.name is None else f"event: {self.name}\n"
        data = "[DONE]" if self.data is None else json.dumps(self.data)
        return f"{head}data: {data}\n\n".encode()
