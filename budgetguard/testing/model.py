"""Model: the pretended model behind the API. It checks, it plays the script, it knows no socket."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from budgetguard.testing import anthropic_rules, anthropic_wire, openai_rules, openai_wire
from budgetguard.testing.answer import Answer, produce
from budgetguard.testing.fault import NO_FAULT, Fault
from budgetguard.testing.refusal import Refusal
from budgetguard.testing.script import Script, director
from budgetguard.testing.usage import Usage, bill

if TYPE_CHECKING:
    from budgetguard.testing.event import Event
    from budgetguard.testing.hold import Hold
    from budgetguard.testing.request import Request
    from budgetguard.testing.shapes import Json

_CHECKS: Final = {"openai": openai_rules.check, "anthropic": anthropic_rules.check}
_WIRES: Final = {"openai": openai_wire, "anthropic": anthropic_wire}


@dataclass(frozen=True, slots=True)
class Performance:
    """What is to be sent for one request, and what each part of it costs."""

    request: Request
    answers: list[Answer]
    fault: Fault
    usage: Usage

    def usage_after(self, events: list[Event], sent: int) -> Usage:
        """What is billed when only the first `sent` of the events were sent."""
        total = sum(event.tokens for event in events)
        carried = sum(event.tokens for event in events[:sent])
        # Visible tokens that no text carries (`Reply.output_tokens`) go with the first event.
        return self.usage.cut(carried / total if total else float(sent > 0))

    @property
    def delay_s(self) -> float:
        """Seconds before the answer starts."""
        return max(answer.reply.delay_s for answer in self.answers)

    @property
    def chunk_delay_s(self) -> float:
        """Seconds between two chunks."""
        return max(answer.reply.chunk_delay_s for answer in self.answers)

    def body(self) -> Json:
        """The answer as JSON."""
        return _WIRES[self.request.api].body(self.request, self.answers, self._reported())

    def events(self) -> list[Event]:
        """The answer as a stream."""
        return _WIRES[self.request.api].events(self.request, self.answers, self._reported())

    def _reported(self) -> Json | None:
        if self.fault.no_usage:
            return None
        first = self.answers[0]
        if first.reply.usage is not None:
            return dict(first.reply.usage)
        if self.request.api == "anthropic":
            return anthropic_wire.report(self.usage, thinks=first.thinks)
        return openai_wire.report(self.usage)


class Model:
    """Plays a script, with the faults that were ordered. Safe to use from any thread."""

    def __init__(self, script: Script) -> None:
        self._direct = director(script)
        self._lock = threading.Lock()  # protects the two lists below
        self._faults: deque[Fault] = deque()
        self._holds: list[Hold] = []

    def inject(self, fault: Fault, times: int) -> None:
        """Queue a fault for the next requests."""
        with self._lock:
            self._faults.extend([fault] * times)

    def keep(self, hold: Hold) -> None:
        """Have every request from now on pass through this hold."""
        with self._lock:
            self._holds.append(hold)

    def pause(self, *, sent: int) -> None:
        """Wait wherever a hold wants a request that has sent that many chunks."""
        with self._lock:
            holds = list(self._holds)
        for hold in holds:
            hold.admit(sent=sent)

    def release(self) -> None:
        """Let every held request go on."""
        with self._lock:
            holds = list(self._holds)
        for hold in holds:
            hold.release()

    def next_fault(self) -> Fault:
        """The fault ordered for the request at hand."""
        with self._lock:
            return self._faults.popleft() if self._faults else NO_FAULT

    def perform(self, request: Request, fault: Fault) -> Performance:
        """Check a request and play the script for it.

        Raises:
            Refusal: The vendor would refuse the request, or the script itself failed (500).
        """
        _CHECKS[request.api](request)
        self.pause(sent=0)
        choices = [replace(request, choice=choice) for choice in range(request.choices)]
        answers = [self._answer(choice) for choice in choices]
        return Performance(request, answers, fault, bill(request, answers))

    def _answer(self, request: Request) -> Answer:
        try:
            return produce(request, self._direct(request))
        except Refusal:
            raise
        except Exception as error:
            message = f"loopback provider: the script raised {type(error).__name__}: {error}"
            raise Refusal(message, status=500, retry=False) from error
