"""Case: one call to be decided. Policies are asked first, then the ledger decides.

Policies are asked outside the lock (they are user code) and their Plans are met; the arithmetic,
the latch, the queue and the hold are one step under it. Refusals are found root to leaf, so the
outermost scope answers.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from budgetguard import notices
from budgetguard.admission import (
    SECONDS,
    Grant,
    Short,
    decide,
    demand_of,
    fits_outright,
    keeps_reserve,
    lacking,
)
from budgetguard.asking import ask, fullest, thinking_under
from budgetguard.forecast import FORECAST, Outputs
from budgetguard.ladder import choose
from budgetguard.plan import EMPTY, End, Plan
from budgetguard.shadow import observe_call
from budgetguard.stores.memory import STORE
from budgetguard.stores.shares import is_promised
from budgetguard.ticket import Ticket

if TYPE_CHECKING:
    from budgetguard.call import Call
    from budgetguard.loops import Loop
    from budgetguard.scope import Scope
    from budgetguard.stores.protocol import Address
    from budgetguard.stores.shared import SharedAccount
    from budgetguard.waiting import Waiter

_call_ids: Final = itertools.count(1)


class Ended(NamedTuple):
    """The budget of this scope ends here."""

    short: Short
    end: End


class Case:
    """One call to be decided, and everything that is known about it."""

    __slots__ = ("_before", "call", "choice", "loop", "outputs", "plan", "plans", "scope", "ticket")

    def __init__(self, scope: Scope, call: Call) -> None:
        """Ask every policy of the lineage; no lock is held."""
        self.scope = scope
        self.call = call
        self.loop: Loop | None = None
        self.outputs: Outputs | None = None
        self.ticket: Ticket | None = None
        """What came of it, if it was granted."""
        if scope.lineage.renewed:  # before the policies are asked what they say of it
            with STORE.lock:
                for account in scope.lineage.accounts:
                    account.renew()
        self.plans = [ask(each, call) for each in scope.lineage.answering]
        plan = EMPTY
        for each in self.plans:
            if each is not EMPTY:
                plan = plan & each
        self.plan = plan
        self.choice = choose(scope, call, plan)

    def decide(
        self, owner: object, waiter: Waiter | None, *, firmly: bool = True
    ) -> Grant | Short | Ended:
        """Decide by the accounts, and hold what is granted, in one step under the lock.

        Args:
            owner: The thread or task that calls.
            waiter: Who queues up if there is no room for the moment.
            firmly: Whether a refusal counts; else nothing is latched, and nobody queues.
        """
        scope, call = self.scope, self.call
        with STORE.lock:
            scope.check_open()
            self.loop = scope.loops.at(call.loop, scope) if call.loop else None
            self.outputs = self._find_outputs()
            outright = self._outright()
            verdict = outright or self._considered()
            if isinstance(verdict, Grant):
                short = self._must_wait(verdict, waiter, owner) if outright is None else None
                if short is None:
                    self.ticket = self._commit(verdict, owner)
                    return verdict
                verdict = short
            if firmly and isinstance(verdict, Ended):
                short, end = verdict
                scope.standing.latch(short, end, (short.scope.account,))
            elif firmly and waiter is not None:
                assert isinstance(verdict, Short)  # noqa: S101 -- neither granted nor ended
                account = verdict.scope.account
                waiter.join(account, ahead=is_promised(account, scope.lineage.accounts))
        return verdict

    def concluded(self, verdict: Grant | Short | Ended) -> Ticket | Short:
        """Tell what was decided.

        Raises:
            BudgetExceeded: If the call is refused.
        """
        if isinstance(verdict, Short):
            return verdict
        if isinstance(verdict, Ended):
            raise notices.refusal(self.scope, self.call, verdict.short, verdict.end)
        ticket = self.ticket
        assert ticket is not None  # noqa: S101 -- a Grant was committed
        try:
            notices.admitted(ticket, verdict, self.plan)
            for each in self.scope.lineage.observers:
                observe_call(each, self.call, self.loop, self.choice, self.outputs)
        except BaseException:  # an interrupt: nobody will ever have this ticket
            ticket.release()
            raise
        return ticket

    def _find_outputs(self) -> Outputs | None:
        """What is known of the answers to such calls, unless the caller capped this one."""
        call, planned = self.choice.call, self.plan.effort
        if call.max_output_tokens is not None:
            return None
        effort = call.effort if planned is None else call.effort_under(planned)
        return FORECAST.of(self.scope.budget.name, self.choice.model, effort)

    def _outright(self) -> Grant | None:
        """The short way for what nearly every call is: nothing planned, nothing near a limit."""
        scope = self.scope
        if self.plan is not EMPTY or scope.standing.latched is not None:
            return None
        if scope.lineage.has_deadline or (self.loop is not None and self.loop.granted):
            return None
        demand = demand_of(EMPTY, self.loop, self.choice, self.outputs)
        return fits_outright(demand, scope)

    def _considered(self) -> Grant | Ended:
        """Grant the call by what is settled, as an ordinary or as a last one, or end the budget."""
        scope, loop, standing = self.scope, self.loop, self.scope.standing
        standing.unlatch_if_renewed()
        latched = standing.latched
        if latched is not None and not self._is_owed_its_last():
            return Ended(latched[0], self._end_in(latched[0].scope, latched[1]))
        if loop is not None and loop.granted:
            return Ended(fullest(scope), scope.end)
        last = loop is not None and (self.plan.final or latched is not None)
        if self.plan.end is not None and not last:
            for each, said in zip(scope.lineage.answering, self.plans, strict=True):
                if said.end is not None:
                    return Ended(fullest(each), said.end)
        late = _past_deadline(scope)
        return self._fit(last=last) if late is None else Ended(late, late.scope.end)

    def _fit(self, *, last: bool) -> Grant | Ended:
        """An ordinary call if one fits, else the last one where it is owed, else the ending."""
        verdict = self._decide(last=last)
        if isinstance(verdict, Grant):
            return verdict
        if not last and self._owes(verdict.scope):
            final = self._decide(last=True)
            if isinstance(final, Grant):
                return final._replace(bound_by=verdict.meter)
            verdict = final
        if last and self.plan.end is not None:
            return Ended(verdict, self.plan.end)
        return Ended(verdict, self._end_in(verdict.scope, verdict.scope.end))

    def _decide(self, *, last: bool) -> Grant | Short:
        demand = demand_of(self.plan, self.loop, self.choice, self.outputs, final=last)
        return decide(demand, self.scope.lineage.answering, last=last)

    def _is_owed_its_last(self) -> bool:
        """Whether the call's loop keeps a last call back, which no latch takes from it."""
        loop = self.loop
        if loop is None or loop.granted:
            return False
        return any(loop.keeps_in(each) for each in self.scope.lineage.accounts)

    def _owes(self, scope: Scope) -> bool:
        """Whether that scope owes the call's loop a last call."""
        return self.loop is not None and not self.loop.granted and keeps_reserve(scope, self.loop)

    def _end_in(self, scope: Scope, end: End) -> End:
        """Inside another loop that is still owed its last call, an ending is quiet."""
        inner = scope.owes_last_call and bool(scope.account.reserves)
        if inner and (self.loop is None or not self.loop.is_outermost(scope.account)):
            return "stop"
        return end

    def _must_wait(self, grant: Grant, waiter: Waiter | None, owner: object) -> Short | None:
        """The outermost scope where others wait already, or where calls in flight hold the room.

        Who holds a ticket passes the queue, because those in it may be waiting for him; so does a
        call that a share of its own covers.
        """
        blocked = lacking(grant, self.scope, self.loop)
        for each in self.scope.lineage.answering:
            if blocked is not None and blocked.scope is each:
                return blocked
            first = each.account.first_in_line() if each.account.waiters else None
            if first in (None, waiter) or STORE.holds(owner, each.account):
                continue
            if not is_promised(each.account, self.scope.lineage.accounts, grant.need):
                return fullest(each)
        return None

    def _commit(self, grant: Grant, owner: object) -> Ticket:
        """Hold what was granted on the whole lineage, and latch what was decided."""
        scope, plan, rung = self.scope, self.plan, self.choice.rung
        for account in scope.lineage.accounts:
            account.hold(grant.need)
        for each, said in zip(scope.lineage.answering, self.plans, strict=True):
            each.standing.admit(said.effort, rung)
        if grant.final or grant.reserves:
            self._keep_or_grant(grant)
        outputs = None if grant.final or self.call.n > 1 else self.outputs
        if outputs is not None:
            outputs.in_flight += 1
        caps = scope.lineage.sends_cap or plan.max_output_tokens is not None
        cap = grant.cap if caps else None
        said = Plan(plan.effort, thinking_under(plan), cap, rung, grant.final, None)
        ticket = Ticket(
            next(_call_ids), scope, self.call, said, self.choice.model, grant.need,
            self.choice.price, self.loop, scope.lineage.accounts, owner, outputs,
        )  # fmt: skip
        STORE.in_flight.add(ticket)
        return ticket

    def _keep_or_grant(self, grant: Grant) -> None:
        loop = self.loop
        if loop is None:
            return
        self._before = [(each, each.reserves.get(loop.id)) for each, _ in grant.reserves]
        if grant.final:
            loop.grant()
            scope = self.scope
            scope.standing.latch(fullest(scope), scope.end, scope.lineage.accounts, loop)
        for account, reserve in grant.reserves:
            loop.keep(account, reserve)

    def address_of(self, account: SharedAccount) -> Address:
        """Where it held when it was granted; the account itself may be in a newer window."""
        assert self.ticket is not None  # noqa: S101 -- a Grant was committed
        return account.address._replace(window=self.ticket.window_of(account))

    def undo(self, grant: Grant) -> None:
        """Forget what was held: a store had no room for it."""
        ticket, loop = self.ticket, self.loop
        assert ticket is not None  # noqa: S101 -- a Grant was committed
        with STORE.lock:
            self.ticket = None
            ticket.forget()
            for each in self.scope.lineage.answering:
                each.standing.calls -= 1
            if loop is not None and grant.final:
                self.scope.take_back_last_call(loop)
            elif loop is not None:
                for account, reserve in self._before:
                    loop.keep_as_before(account, reserve)


def _past_deadline(scope: Scope) -> Short | None:
    now = time.monotonic()
    for each in scope.lineage.answering:
        if now >= each.deadline:
            return Short(each, SECONDS)
    return None
