"""Admitting: how the calls of a scope pass the gate, in a thread and in a task."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from budgetguard import notices
from budgetguard.gate import attempt
from budgetguard.ticket import Ticket
from budgetguard.waiting import TaskWaiter, ThreadWaiter, Waiter, admission

if TYPE_CHECKING:
    from collections.abc import Generator

    from budgetguard.admission import Short
    from budgetguard.call import Call
    from budgetguard.scope import Scope
    from budgetguard.stores.link import Ask
    from budgetguard.waiting import Steps


def admit(scope: Scope, call: Call) -> Ticket:
    """Admit a call, waiting in this thread where it must; see `Scope.admit`."""
    for each in scope.lineage.billed:
        if each.estimation.pending:
            each.estimation.run()
    if not scope.lineage.shared:
        verdict = attempt(scope, call, threading.get_ident())
        if isinstance(verdict, Ticket):
            return verdict
    waiter = ThreadWaiter()
    return waiter.run(_steps(scope, call, waiter))


async def aadmit(scope: Scope, call: Call) -> Ticket:
    """Admit a call, waiting in this task where it must; see `Scope.aadmit`."""
    for each in scope.lineage.billed:
        if each.estimation.pending:
            await each.estimation.arun()
    if not scope.lineage.shared:
        verdict = attempt(scope, call, asyncio.current_task())
        if isinstance(verdict, Ticket):
            return verdict
    waiter = TaskWaiter()
    return await waiter.run(_steps(scope, call, waiter))


def admit_now(scope: Scope, call: Call, why: str) -> Ticket:
    """Admit a call without waiting; see `Scope.admit_now`."""
    waiter = ThreadWaiter(why)
    return waiter.run(_steps(scope, call, waiter))


def _steps(scope: Scope, call: Call, waiter: Waiter) -> Steps:
    answering = scope.lineage.answering
    return admission(
        partial(_attempt, scope, call),
        waiter,
        patience_s=min((each.budget.patience for each in answering), default=0.0),
        until=partial(_nearest_deadline, scope),
        busy=partial(notices.busy, scope),
    )


def _nearest_deadline(scope: Scope) -> float:
    return min((each.deadline for each in scope.lineage.answering), default=float("inf"))


def _attempt(
    scope: Scope, call: Call, waiter: Waiter
) -> Generator[float | Ask, Any, Ticket | Short]:
    if scope.lineage.shared:
        from budgetguard.fleet import attempt_shared  # noqa: PLC0415 -- only who has a store needs it

        return (yield from attempt_shared(scope, call, waiter.owner, waiter))
    return attempt(scope, call, waiter.owner, waiter)
