"""Which run of LangChain belongs to which scope.

One registry for all handlers, because several of them may guard one run: they nest, in the order
of the list. It knows runs only while they run; the end of a task forgets every run below it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from langchain_core.runnables.config import var_child_runnable_config

from budgetguard import Budget, NoOpenBudget, Scope, ScopeClosed, current_scope
from budgetguard.current import enter_tool, leave_tool
from budgetguard.mode import forced_mode

if TYPE_CHECKING:
    from contextvars import Token
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What the callables of a handler are told of a root run."""

    name: str | None = None
    """Name of the chain, graph or model."""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Metadata of the run, `configurable` keys included."""
    thread_id: str | None = None
    """LangGraph's `configurable["thread_id"]`, where there is one."""
    prompt: str | None = None
    """The last thing a person said in the input."""

    @classmethod
    def of(
        cls,
        name: str | None,
        tags: Iterable[str] | None,
        metadata: Mapping[str, Any] | None,
        inputs: object,
    ) -> RunInfo:
        """What LangChain tells of a run, for the callables of a handler."""
        known = metadata or {}
        thread = known.get("thread_id")
        thread_id = None if thread is None else str(thread)
        return cls(name, tuple(tags or ()), known, thread_id, prompt_of(inputs))


BudgetSource = Budget | Callable[[RunInfo], Budget | None] | None
"""A Budget, or what chooses one for a root run (`None`: unguarded), or nothing: the open scope."""


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """One attached budget: what to open for a task, and under which id."""

    source: BudgetSource
    id: Callable[[RunInfo], str | None] | None = None

    def open(self, base: Scope | None, run: Callable[[], RunInfo]) -> Scope | None:
        """The scope this guard adds below `base` for a task; `None` if it adds none.

        Args:
            base: The scope around the task.
            run: Tells about the task, where that matters.

        Raises:
            NoOpenBudget: If the guard has no budget and no scope is open.
        """
        if self.source is None:
            if base is None:
                msg = "BudgetCallbackHandler() has no budget, and no scope is open: pass a Budget"
                raise NoOpenBudget(msg)
            return None
        budget = self.source if isinstance(self.source, Budget) else self.source(run())
        if budget is None:
            return None
        if base is not None and any(each.budget == budget for each in base.lineage.billed):
            return None
        id_ = None if self.id is None else self.id(run())
        prompt = None if budget.estimator is None else run().prompt
        return Scope(budget, parent=base, id=None if id_ is None else str(id_), prompt=prompt)


class Run:
    """A run, and the scope its model calls belong to."""

    __slots__ = ("active", "guards", "in_graph", "owned", "path", "scope", "task")

    def __init__(self, scope: Scope | None, path: tuple[int, ...], task: set[int]) -> None:
        self.scope = scope
        self.path = path
        """Ids of the graphs and tools around, outermost first: what agent loops are told by."""
        self.task = task
        """Every run of the task."""
        self.in_graph = False
        """Whether it runs inside a node of a graph, with no tool in between."""
        self.guards: tuple[Guard, ...] = ()
        self.owned: list[Scope] = []
        self.active: tuple[Token[Scope | None], Token[bool]] | None = None


RUNS: Final[dict[int, Run]] = {}
"""The runs in progress, by the integer of their UUID, which hashes in C. One operation at a time
on the dict, so no lock is needed."""

_ended: Final[dict[int, weakref.ref[Scope]]] = {}
_MOST_ENDED: Final = 4_096


def ambient_run_id() -> int | None:
    """The run around this code, which callbacks passed by hand hide from LangChain itself."""
    config = var_child_runnable_config.get()
    run_id: UUID | None = getattr((config or {}).get("callbacks"), "parent_run_id", None)
    return run_id.int if run_id is not None and run_id.int in RUNS else None


def innermost(scope: Scope | None) -> Scope | None:
    """The open scope of this context if it lies below `scope`, else `scope`."""
    current = current_scope()
    if current is None or scope is None:
        return scope or current
    return current if scope in current.lineage.billed else scope


def start(
    guard: Guard,
    run_id: int,
    parent_id: int | None,
    tags: list[str] | None,
    info: Callable[[], RunInfo],
) -> Run:
    """Note that a run started under `guard`; open the guard's scope if its task starts here."""
    run = RUNS.get(run_id)
    if run is None:
        run = RUNS[run_id] = _below(run_id, parent_id or ambient_run_id(), tags)
    if guard not in run.guards:
        run.guards = (*run.guards, guard)
        try:
            _open(guard, run, info)
        except BaseException:
            end(run_id)  # LangChain reports no end of a run whose start was refused
            raise
    return run


def _open(guard: Guard, run: Run, info: Callable[[], RunInfo]) -> None:
    if forced_mode() == "off":
        return
    own = guard.open(innermost(run.scope), info)
    if own is not None:
        run.owned.append(own)
        run.scope = own
    elif run.scope is None:
        run.scope = current_scope()


def _below(run_id: int, parent_id: int | None, tags: list[str] | None) -> Run:
    parent = RUNS.get(parent_id) if parent_id is not None else None
    if parent is None or parent_id is None:
        return Run(None, (run_id,), {run_id})
    run = Run(parent.scope, parent.path, parent.task)
    run.guards, run.in_graph = parent.guards, parent.in_graph
    for tag in tags or ():
        if tag.startswith("graph:step:"):
            run.in_graph = True
            run.path = parent.path if parent_id in parent.path else (*parent.path, parent_id)
    parent.task.add(run_id)
    return run


def end(run_id: int, *, error: bool = False) -> None:
    """Note that a run ended: close what it opened, and forget it and everything below it."""
    run = RUNS.pop(run_id, None)
    if run is None:
        return
    leave(run)
    if run.scope is not None:
        run.scope.end_loop(run_id)
    for scope in reversed(run.owned):
        scope.close(error=error)
    run.task.discard(run_id)
    if run.path[0] == run_id:
        for below in list(run.task):  # a cancelled tool reports no end
            end(below)
    if run.scope is not None:
        _remember_ended(run_id, run.scope)


def _remember_ended(run_id: int, scope: Scope) -> None:
    _ended[run_id] = weakref.ref(scope)
    while len(_ended) > _MOST_ENDED:
        _ended.pop(next(iter(_ended)), None)


def scope_of_ended(run_id: int | None) -> Scope | None:
    """The scope of a run that is over, for a call that comes from it late; `None` if not known.

    Raises:
        ScopeClosed: If the whole task is over.
    """
    known = _ended.get(run_id) if run_id is not None else None
    if known is None:
        return None
    scope = known()
    if scope is None or scope.standing.closed:
        msg = "this call belongs to a task that has ended: its run is over"
        raise ScopeClosed(msg)
    return scope


def leave(run: Run) -> None:
    """Undo `enter`."""
    tokens, run.active = run.active, None
    if tokens is not None:
        leave_tool(tokens)


def enter(run: Run, run_id: int) -> None:
    """A tool runs here: its context's open scope is the task's, and what loops in it is inner."""
    run.path, run.in_graph = (*run.path, run_id), False
    scope = innermost(run.scope)
    if scope is not None:
        run.active = enter_tool(scope)


def prompt_of(inputs: object) -> str | None:
    """The last thing a person said, in whatever a chain was given."""
    if isinstance(inputs, str):
        return inputs
    if isinstance(inputs, Mapping):
        for key in ("messages", "input", "question", "query"):
            if key in inputs:
                return prompt_of(inputs[key])  # pyright: ignore[reportUnknownArgumentType]
        return None
    if isinstance(inputs, (list, tuple)):
        for message in reversed(inputs):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            text = _said_by_a_person(message)
            if text is not None:
                return text
    return None


def _said_by_a_person(message: Any) -> str | None:
    if isinstance(message, str):
        return message
    if isinstance(message, tuple) and len(message) == 2:  # pyright: ignore[reportUnknownArgumentType] # noqa: PLR2004 -- ("user", text)
        role, text = message  # pyright: ignore[reportUnknownVariableType]
        return text if role in ("user", "human") and isinstance(text, str) else None
    if isinstance(message, Mapping):
        role = message.get("role") or message.get("type")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        text = message.get("content")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return text if role in ("user", "human") and isinstance(text, str) else None
    kind: Any = getattr(message, "type", None)  # pyright: ignore[reportUnknownArgumentType]
    return str(getattr(message, "text", "")) if kind == "human" else None  # pyright: ignore[reportUnknownArgumentType]
