"""Input tokens before a call: offline, each message counted once, calibrated by what was billed.

A hold is only as good as its estimate of the input, and a count that walks the whole history makes
turn 500 cost what 500 turns did. So the bill of the last call stands for everything up to it, and
only what was added since is estimated: from above, by script, at the speed of C.

The invariant: no script class is estimated below its raw upper estimate before the model was billed
for it.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from threading import Lock
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from budgetguard.tally import SCRIPTS, Script, Tally, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_MESSAGE: Final = 8  # tokens around each message: role, separators, ids; providers use 3 to 7
_TOOLS: Final = 530  # the prompt a provider adds to explain tools: docs.anthropic.com, tool use
_DOMINANT: Final = 0.9
_LEARNABLE: Final = 50  # tokens
_HIDDEN: Final = 0.05
_ABSURD: Final = 20
_WINDOW: Final = 32
_QUANTILE: Final = 0.9
_MARGIN: Final = 1.05
_MODELS: Final = 256


class Calibration:
    """What providers billed for what was estimated, per model and script class.

    Thread-safe, and bounded: the 256 models billed last, the last 32 bills of each class.
    """

    def __init__(self) -> None:
        self._lock = Lock()  # protects _ratios; _factors are replaced whole and read without it
        self._ratios: OrderedDict[str, tuple[deque[float], ...]] = OrderedDict()
        self._factors: dict[str, tuple[float, float, float, float]] = {}

    def factor(self, model: str, script: Script) -> float:
        """What to multiply an estimate with: 1.0 for a class this model was not yet billed for.

        Else the 0.9 quantile of the last ratios of billed to estimated tokens, plus 5 %. Above 1
        when a provider counts more than the estimate.
        """
        factors = self._factors.get(model)
        return factors[SCRIPTS.index(script)] if factors else 1.0

    def estimate(self, model: str, fresh: Tally) -> int:
        """The tokens of a tally, calibrated, rounded up."""
        factors = self._factors.get(model)
        if not factors:
            return sum(fresh)
        plain, dense, cjk, other = factors
        return math.ceil(
            fresh.plain * plain + fresh.dense * dense + fresh.cjk * cjk + fresh.other * other
        )

    def learn(self, model: str, fresh: Tally, *, extra: int = 0, billed: int) -> None:
        """Learn from a bill of `billed` tokens for texts of this tally.

        Only where it says something: one class is at least 90 % of what was estimated, `extra`
        tokens around the texts included, and at least 50 tokens; the ratio is above 0 and at most
        20. Everything else is ignored.
        """
        most = max(fresh)
        if most < _LEARNABLE or most < _DOMINANT * (sum(fresh) + extra):
            return
        ratio = billed / sum(fresh)
        if 0 < ratio <= _ABSURD:
            self._add(model, fresh.index(most), ratio)

    def _add(self, model: str, script: int, ratio: float) -> None:
        with self._lock:
            windows = self._ratios.setdefault(
                model, tuple(deque[float](maxlen=_WINDOW) for _ in SCRIPTS)
            )
            self._ratios.move_to_end(model)
            windows[script].append(ratio)
            plain, dense, cjk, other = map(_factor, windows)
            self._factors[model] = (plain, dense, cjk, other)
            if len(self._ratios) > _MODELS:
                forgotten, _ = self._ratios.popitem(last=False)
                del self._factors[forgotten]


def _factor(window: deque[float]) -> float:
    if not window:
        return 1.0
    return sorted(window)[math.ceil(_QUANTILE * len(window)) - 1] * _MARGIN


Message = TypeVar("Message")


class Counted(NamedTuple, Generic[Message]):
    """What was counted for one call: all that `Conversation.billed` needs to know about it."""

    tokens: int
    """The upper estimate of the input, in tokens."""
    base: int
    """The part of it that rests on the last bill; 0 when everything was estimated."""
    hidden: int
    """The part of `base` that may not be in the prompt, since thinking is not always sent back."""
    fresh: Tally
    """The texts that were estimated, before calibration."""
    extra: int
    """Tokens estimated around them: images, roles, separators, the preamble of tools."""
    model: str
    """The name the caller gave."""
    tool_count: int
    """How many tools were offered."""
    known: int
    """How many messages the prompt has."""
    first: Message | None
    """The first of them: a system prompt, say, which some agents write anew for each call."""
    last: Message | None
    """The last of them; `None` without messages."""
    bills: int
    """How many bills the conversation had seen when this was counted."""


class _Bill(NamedTuple, Generic[Message]):
    counted: Counted[Message]
    input: int
    output: int
    hidden: int


class Conversation(Generic[Message]):
    """Counts each message once in the life of a conversation.

    Keeps the last bill and one reference to the last message, no text. Not thread-safe: the caller
    holds a lock of its own around the calls of one conversation.
    """

    __slots__ = ("_bill", "_bills", "_calibration", "_is_answer", "_texts")

    def __init__(
        self,
        calibration: Calibration,
        *,
        texts: Callable[[Message], Iterable[str | int]],
        is_answer: Callable[[Message], bool],
    ) -> None:
        """Say how a message is read.

        Args:
            calibration: what is known about the models; share one among all conversations.
            texts: all that is sent of a message; for what is not text, such as an image, the
                largest number of tokens it can take.
            is_answer: whether a model wrote the message.
        """
        self._calibration = calibration
        self._texts = texts
        self._is_answer = is_answer
        self._bill: _Bill[Message] | None = None
        self._bills = 0

    def count(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        tools: Callable[[], str] = str,
        tool_count: int = 0,
    ) -> Counted[Message]:
        """Estimate the input of a call from above.

        If the messages continue those last billed (the last known one *is* at its index, model and
        number of tools are the same): last input + last output + what was added since, where an
        answer that comes first is what the last output was. Anything else, a parallel branch, a
        sub-agent, a summarised history, is a conversation of its own and counted anew, with
        `tools()`, the JSON of the tool schemas.
        """
        bill = self._continued(model, messages, tool_count)
        if bill is None:
            base = hidden = 0
            fresh, extra = self._read(messages)
            if tool_count:
                fresh = fresh._replace(dense=fresh.dense + sum(tally(tools())))
                extra += _TOOLS
        else:
            base, hidden, fresh, extra = self._added(bill, messages[bill.counted.known :])
        tokens = base + self._calibration.estimate(model, fresh) + extra
        first, last = (messages[0], messages[-1]) if messages else (None, None)
        return Counted(
            tokens,
            base,
            hidden,
            fresh,
            extra,
            model,
            tool_count,
            len(messages),
            first,
            last,
            self._bills,
        )

    def billed(
        self,
        counted: Counted[Message],
        *,
        input_tokens: int,
        output_tokens: int,
        hidden_tokens: int = 0,
    ) -> None:
        """Take a bill as the new base, and learn from it.

        Only for what a provider reported: an estimate passed off as a bill would teach the
        calibration its own errors. A bill that was overtaken by one of a longer history is only
        learned from.

        Args:
            counted: what `count` returned for this call.
            input_tokens: what was billed, cached tokens included in full.
            output_tokens: what was billed, thinking included.
            hidden_tokens: the part of the output that may not be sent back with the next prompt,
                that is thinking; all of `output_tokens` if there was some of unknown size.
        """
        if counted.hidden <= _HIDDEN * sum(counted.fresh):
            self._calibration.learn(
                counted.model,
                counted.fresh,
                extra=counted.extra,
                billed=input_tokens - counted.base,
            )
        bill = self._bill
        if bill and counted.bills != self._bills:  # it ran in parallel to the one billed last
            if counted.known < bill.counted.known:
                return
            if counted.last is bill.counted.last:  # either answer may be the one that is kept
                input_tokens = max(input_tokens, bill.input)
                output_tokens = max(output_tokens, bill.output)
                hidden_tokens = output_tokens
        self._bills += 1
        self._bill = _Bill(counted, input_tokens, output_tokens, hidden_tokens)

    def _continued(
        self, model: str, messages: Sequence[Message], tool_count: int
    ) -> _Bill[Message] | None:
        if self._bill is None:
            return None
        counted = self._bill.counted
        same = (
            0 < counted.known <= len(messages)
            and messages[counted.known - 1] is counted.last
            and messages[0] is counted.first
            and counted.model == model
            and counted.tool_count == tool_count
        )
        return self._bill if same else None

    def _added(self, bill: _Bill[Message], added: Sequence[Message]) -> tuple[int, int, Tally, int]:
        if not added:  # the same prompt once more
            return bill.input, 0, Tally(), 0
        base = bill.input + bill.output
        if not self._is_answer(added[0]):
            return base, bill.output, *self._read(added)
        fresh, extra = self._read(added[1:])
        return base, bill.hidden, fresh, extra + _MESSAGE

    def _read(self, messages: Sequence[Message]) -> tuple[Tally, int]:
        plain = dense = cjk = other = 0
        extra = _MESSAGE * len(messages)
        for message in messages:
            for part in self._texts(message):
                if isinstance(part, str):
                    estimate = tally(part)
                    plain += estimate.plain
                    dense += estimate.dense
                    cjk += estimate.cjk
                    other += estimate.other
                else:
                    extra += part
        return Tally(plain, dense, cjk, other), extra
