"""Which model runs passed the gate, so that a model that slips past it is noticed."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

_inside: ContextVar[bool] = ContextVar("budgetguard_langchain_inside", default=False)
_marked: Final[set[UUID]] = set()


def is_guarded(run_id: UUID) -> bool:
    """Whether the model run that starts now passed the gate."""
    return _inside.get() or run_id in _marked


def inside_guarded_call() -> bool:
    """Whether a guarded model call is being made in this context."""
    return _inside.get()


class inside:  # noqa: N801 -- reads as a statement: `with inside():`
    """Marks the model runs that start in this block as guarded."""

    def __enter__(self) -> None:
        self._token = _inside.set(True)

    def __exit__(self, *_: object) -> None:
        _inside.reset(self._token)


def mark(run_id: UUID) -> None:
    """Note that a model run, of a lazy stream, passed the gate when the stream was made."""
    _marked.add(run_id)


def unmark(run_id: UUID) -> None:
    """Forget a marked run that has ended."""
    _marked.discard(run_id)
