"""How long the answers of a workflow are: learned from settled calls, so that holds can be small.

A call without an output cap of its caller's could use all that its model can produce. What is held
for it, and sent as its cap, is what such calls have been seen to need: an upper quantile of the
newest answers of the same budget, model and effort, widened whenever one is cut off. The widening
alone bounds the share of answers cut off in the long run to one in fifty-one, whatever the lengths
are distributed like; the quantile brings the cap near, and quickly down.

No I/O, no clock, no lock: who calls holds the ledger's lock. Bounded: the 256 keys used last. Kept
are numbers, and names of budgets and models; nothing of a prompt or an answer.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from budgetguard.efforts.scale import EFFORTS

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from budgetguard.efforts.scale import Effort

_log = logging.getLogger("budgetguard")

MEMORY: Final = 256
"""Answers remembered of each key, the newest."""

KEYS: Final = 256
"""Keys remembered, those used last."""

LEAST_KNOWN: Final = 8
"""Answers before which nothing is forecast; the default goes on to count as so many answers."""

IN_FLIGHT_COUNTS: Final = 2
"""For so many answers more for each call in flight: short answers settle first, long ones last."""

LEAST_CAP: Final = 256
"""No forecast is below this many tokens: agents send thousands, so less saves nothing."""

PER_DOUBLING: Final = 50
"""An answer cut off doubles the cap; so many that end by themselves halve it again."""

_UPPER: Final = 95  # percent
_MOST_DOUBLINGS: Final = 6
_OLD: Final = 8  # quantiles are computed anew when an eighth of the answers is new
_ABSURD: Final = 1 << 31
_FORMAT: Final = 1
_GOLDEN: Final = 0.618


class Outputs:
    """How long the answers of one budget, model and effort are."""

    __slots__ = (
        "_answers", "_cap", "_cut", "_default", "_due", "_kept", "_kept_widening", "_longest",
        "_new_thoughts", "_reasoning", "_seen", "_thought", "_upper", "_widening", "in_flight",
    )  # fmt: skip

    def __init__(self) -> None:
        self.in_flight = 0
        """Calls admitted and not settled yet, of which the long ones settle last."""
        self._answers: deque[int] = deque(maxlen=MEMORY)
        self._reasoning: deque[int] = deque(maxlen=MEMORY)
        self._widening = 0  # PER_DOUBLING for each doubling, so that it is an integer
        self._kept_widening = 0
        self._seen = self._kept = 0  # answers ever, and those of them that were kept
        self._new_thoughts = 0
        self._cut = 0
        self._due = 1  # answers until these are looked at anew
        self._upper = self._longest = self._thought = 0
        self._default = self._cap = 0

    def __len__(self) -> int:
        return len(self._answers)

    def cap(self, default: int) -> int:
        """The output cap such a call should get; `default` until eight answers are known.

        At most `default`, unless answers as long as half of it were seen: then at most twice the
        longest of them.
        """
        if self._due > 0 and default == self._default:
            return self._cap
        self._refresh()
        cap = float(self._upper or default)
        if cap < default:
            unknown = LEAST_KNOWN + IN_FLIGHT_COUNTS * self.in_flight
            cap *= (default / cap) ** (unknown / (unknown + self._seen))
        cap *= 2.0 ** (self._widening / PER_DOUBLING)
        self._default = default
        self._cap = int(min(max(cap, LEAST_CAP), max(default, 2 * self._longest)))
        return self._cap

    def reasoning(self, planned: int) -> int:
        """The reasoning tokens to hold for such a call; `planned` until eight are known."""
        self._refresh()
        if not self._thought:
            return planned
        known = len(self._reasoning)
        mean = (self._thought * known + planned * LEAST_KNOWN) // (known + LEAST_KNOWN)
        return max(self._thought, mean)

    def observe(
        self, output: int, reasoning: int = 0, *, truncated: bool = False, cap: int | None = None
    ) -> None:
        """Learn from a call that was billed.

        An answer that was cut off says only that it would have been longer. Cut at the forecast,
        it widens the forecast. Cut by a cap clearly below it (below three quarters: the last of
        the money, a policy's cap, a forecast made before the last widening), it says nothing about
        the forecast, and counts as one of the longer answers seen, in turn.

        Args:
            output: Tokens received, reasoning included.
            reasoning: The part of them that was reasoning.
            truncated: Whether the answer was cut off.
            cap: The output cap it ran under; `None`: none was sent.
        """
        self._due -= 1
        if cap is not None and 4 * cap < 3 * self._cap:
            if truncated:
                output = self._longer_than(output)
        elif truncated:
            self._widening = min(self._widening + PER_DOUBLING, _MOST_DOUBLINGS * PER_DOUBLING)
            self._due = 0
        elif self._widening:
            self._widening -= 1
        self._answers.append(output)
        self._seen += 1
        if reasoning:
            self._reasoning.append(reasoning)
            self._new_thoughts += 1

    def _longer_than(self, output: int) -> int:
        longer = sorted(each for each in self._answers if each > output)
        if not longer:
            return max(output, self._cap)
        self._cut += 1
        return longer[int(self._cut * _GOLDEN % 1 * len(longer))]

    def _refresh(self) -> None:
        if self._due > 0:
            return
        answers, reasoning = sorted(self._answers), sorted(self._reasoning)
        known = len(answers)
        self._due = max(1, known // _OLD)
        self._default = 0
        self._longest = answers[-1] if answers else 0
        if known >= LEAST_KNOWN:
            self._upper = answers[known * _UPPER // 100]
        if len(reasoning) >= LEAST_KNOWN:
            self._thought = reasoning[len(reasoning) * _UPPER // 100]

    def record(self) -> Record:
        """What is known, to be kept for `merge`; what comes from now on is new."""
        self._kept = self._seen
        self._kept_widening = self._widening
        self._new_thoughts = 0
        return Record(self._widening, [*self._answers], [*self._reasoning])

    def merge(self, kept: Record) -> None:
        """Know what was kept, followed by what came here since the last `record`."""
        new = self._seen - self._kept
        _replace(self._answers, kept.answers, new)
        _replace(self._reasoning, kept.reasoning, self._new_thoughts)
        widening = kept.widening + self._widening - self._kept_widening
        self._widening = max(0, min(widening, _MOST_DOUBLINGS * PER_DOUBLING))
        self._kept_widening = kept.widening
        self._seen = max(self._seen, len(self._answers))
        self._kept = self._seen - new
        self._due = 0


def _replace(window: deque[int], kept: list[int], new: int) -> None:
    """Keep only the newest few of a window, and put what was kept before them."""
    newest = [*window][max(0, len(window) - new) :]
    window.clear()
    window.extend([*kept, *newest])


class Record(NamedTuple):
    """What is kept of one key."""

    widening: int
    answers: list[int]
    reasoning: list[int]


Key = tuple[str, str, "Effort | None"]
"""Budget, model, effort."""

Records = dict[Key, Record]
"""What a dump says."""


class Forecast:
    """What is known of the answers of every workflow; use it under the ledger's lock."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, Outputs] = OrderedDict()
        self._warned = False

    def __len__(self) -> int:
        return len(self._known)

    def of(self, budget: str, model: str, effort: Effort | None) -> Outputs:
        """What is known of one kind of call; the kind used longest ago makes room for a new one."""
        key = budget, model, effort
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        if len(self._known) >= KEYS:
            self._known.popitem(last=False)
        known = self._known[key] = Outputs()
        return known

    def forget(self) -> None:
        """Know nothing again."""
        self._known.clear()

    def forget_calls_in_flight(self) -> None:
        """Wait for no answer any more, as a forked child must: its parent gets them."""
        for each in self._known.values():
            each.in_flight = 0

    def dump(self, budgets: Container[str] | None = None) -> bytes:
        """All that is known, as JSON: names of budgets and models, efforts, and token counts.

        It is to be kept: what is in it counts as kept at the next `merge`.

        Args:
            budgets: Names of the only budgets to tell of; `None`: all.
        """
        told = [key for key in self._known if budgets is None or key[0] in budgets]
        known = [[*key, *self._known[key].record()] for key in told if self._known[key]]
        return json.dumps({"format": _FORMAT, "outputs": known}, separators=(",", ":")).encode()

    def load(self, data: bytes) -> None:
        """Know what a dump says, and nothing else; a dump that cannot be read changes nothing."""
        records = self.read(data)
        if records is not None:
            self.forget()
            self.merge_records(records)

    def merge(self, data: bytes) -> set[str]:
        """Know what was kept, and what was learned here since the last `dump`.

        Returns the names of the budgets that were kept.

        Several processes learn together, each answer counted once, if each of them now and then
        merges what is kept, and keeps its `dump()` instead. A dump that cannot be read changes
        nothing, and is warned of once.
        """
        return self.merge_records(self.read(data) or {})

    def merge_records(self, records: Records) -> set[str]:
        """Do what `merge` does, with a dump that was read before."""
        for key, record in records.items():
            self.of(*key).merge(record)
        return {budget for budget, _, _ in records}

    def read(self, data: bytes) -> Records | None:
        """What a dump says; `None` if it cannot be read. Needs no lock."""
        try:
            return _parsed(json.loads(data))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if not self._warned:
                self._warned = True
                _log.warning("learned output lengths are unreadable: %s", type(error).__name__)
            return None


def _parsed(dump: Any) -> dict[Key, Record]:
    if dump["format"] != _FORMAT:
        raise ValueError("a dump of another format")
    records: dict[Key, Record] = {}
    for budget, model, effort, widening, answers, reasoning in dump["outputs"]:
        if not (isinstance(budget, str) and isinstance(model, str)):
            raise TypeError("a name that is no text")
        if effort is not None and effort not in EFFORTS:
            raise ValueError("an unknown effort")
        key: Key = budget, model, effort
        records[key] = Record(_counts([widening])[0], _counts(answers), _counts(reasoning))
    return records


def _counts(values: Iterable[Any]) -> list[int]:
    counts = [*values][-MEMORY:]
    if not all(type(each) is int and 0 <= each < _ABSURD for each in counts):
        raise ValueError("a count that is none")
    return counts


FORECAST: Final = Forecast()
"""What this process has learned; use it under the ledger's lock (`STORE.lock`)."""
