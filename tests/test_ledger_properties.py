"""Invariants 1, 3, 4, 5 and 9 of the ledger, for any interleaving of any tree of scopes."""

import gc
import tracemalloc

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from budgetguard import (
    Budget,
    BudgetBusy,
    BudgetExceeded,
    Call,
    Plan,
    Price,
    Scope,
    ScopeClosed,
    Ticket,
    Usage,
)
from budgetguard.admission import Grant
from budgetguard.case import Case
from budgetguard.stores.memory import STORE

PRICES = {"m": Price(input="1", output="3", cache_write="1.25")}
METERS = ("tokens", "input_tokens", "output_tokens", "turns", "usd")
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.integers(100, 20_000),
        "output_tokens": st.integers(40, 100),
        "turns": st.integers(1, 12),
        "usd": st.sampled_from(["0.0003", "0.01", "0.05"]),
    },
)


def measure_only(_state: object) -> Plan:
    return Plan()


class Ledger(RuleBasedStateMachine):
    """Opens, admits, settles, releases and closes in any order; nobody ever waits."""

    def __init__(self) -> None:
        super().__init__()
        self.scopes: list[Scope] = []
        self.children: dict[int, list[Scope]] = {}
        self.in_flight: list[Ticket] = []
        self.settled: list[Ticket] = []
        self.ended: set[int] = set()

    @initialize(limits=st.lists(LIMITS, min_size=3, max_size=3), default=st.booleans())
    def open_a_tree(self, limits: list[dict[str, int | str]], default: bool) -> None:
        for where, each in zip((0, 1, 1), limits, strict=True):
            self.open(each, where, default)

    @precondition(lambda self: len(self.scopes) < 6)
    @rule(limits=LIMITS, where=st.integers(0, 9), default=st.booleans())
    def open(self, limits: dict[str, int | str], where: int, default: bool) -> None:
        policy = {} if default else {"policy": measure_only}
        budget = Budget(f"b{len(self.scopes)}", patience=0, prices=PRICES, **limits, **policy)
        open_scopes = [each for each in self.scopes if each.outcome is None]
        parent = open_scopes[where % len(open_scopes)] if open_scopes and where else None
        scope = Scope(budget, parent=parent)
        self.scopes.append(scope)
        self.children[id(scope)] = []
        if parent is not None:
            self.children[id(parent)].append(scope)

    @rule(where=st.integers(0, 9), calls=st.lists(st.integers(0, 900), max_size=6))
    def admit_a_burst(self, where: int, calls: list[int]) -> None:
        for sent in calls:
            self.admit(where, sent, 300, ())

    @rule(
        where=st.integers(0, 9),
        sent=st.integers(0, 5_000),
        cap=st.none() | st.integers(1, 6_000),
        loop=st.sampled_from([(), ("a",), ("b",), ("a", "inner")]),
    )
    def admit(self, where: int, sent: int, cap: int | None, loop: tuple[str, ...]) -> None:
        scope = self.scopes[where % len(self.scopes)]
        call = Call("m", input_tokens=sent, max_output_tokens=cap, loop=loop)
        self.short_way_agrees(scope, call)
        try:
            ticket = scope.admit(call)
        except BudgetBusy:
            return
        except ScopeClosed:
            assert any(each.outcome is not None for each in scope.lineage.billed)
            return
        except BudgetExceeded as error:
            assert error.scope in scope.lineage.answering
            self.ended.add(id(scope))
            return
        if id(scope) in self.ended:
            assert ticket.plan.final, "after an ending only a last call that was owed may come"
        if ticket.plan.final:
            self.ended.add(id(scope))
        held_output = ticket.need[2]
        sent_cap = ticket.plan.max_output_tokens
        assert sent_cap is None or sent_cap == held_output
        assert cap is None or held_output <= cap
        self.in_flight.append(ticket)

    def short_way_agrees(self, scope: Scope, call: Call) -> None:
        """Where a call fits outright, the whole decision says the same."""
        if any(each.outcome is not None for each in scope.lineage.billed):
            return
        case = Case(scope, call)
        with STORE.lock:
            case.loop = scope.loops.at(call.loop, scope) if call.loop else None
            outright = case._outright()
            if outright is not None:
                whole = case._considered()
                assert isinstance(whole, Grant)
                assert whole[:4] == outright[:4]
                assert case._must_wait(whole, None, None) is None

    @precondition(lambda self: self.in_flight)
    @rule(
        which=st.integers(0, 99),
        sent=st.floats(0, 1),
        received=st.floats(0, 1),
        written=st.booleans(),
        ends_loop=st.booleans(),
    )
    def settle(
        self, which: int, sent: float, received: float, written: bool, ends_loop: bool
    ) -> None:
        ticket = self.in_flight.pop(which % len(self.in_flight))
        billed = int(ticket.need[1] * sent)
        usage = Usage(
            billed, int(ticket.need[2] * received), cache_write_tokens=billed if written else 0
        )
        ticket.settle(usage, ends_loop=ends_loop)
        self.settled.append(ticket)

    @precondition(lambda self: self.settled)
    @rule(which=st.integers(0, 99))
    def settle_or_release_again(self, which: int) -> None:
        before = [(each.spent.tokens, each.spent.usd, each.held) for each in self.scopes]
        ticket = self.settled[which % len(self.settled)]
        ticket.settle(Usage(10_000, 10_000))
        ticket.release()
        assert before == [(each.spent.tokens, each.spent.usd, each.held) for each in self.scopes]

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 99))
    def release(self, which: int) -> None:
        ticket = self.in_flight.pop(which % len(self.in_flight))
        if ticket.plan.final:
            self.ended.discard(id(ticket.scope))
        ticket.release()

    @precondition(lambda self: len(self.scopes) > 3)
    @rule(where=st.integers(3, 9))
    def close(self, where: int) -> None:
        self.scopes[where % len(self.scopes)].close()

    @invariant()
    def never_over(self) -> None:
        for scope in self.scopes:
            for meter in METERS:
                limit = getattr(scope.budget.limits, meter)
                used = getattr(scope.spent, meter) + getattr(scope.held, meter)
                assert limit is None or used <= limit, (scope, meter)

    @invariant()
    def conserved(self) -> None:
        for scope in self.scopes:
            counts = scope.counts
            mine = [each for each in self.in_flight if scope in each.scope.lineage.billed]
            assert counts.in_flight == len(mine)
            total = scope.own
            for child in self.children[id(scope)]:
                total = total + child.spent
            spent = scope.spent
            assert (total.tokens, total.turns, total.usd) == (spent.tokens, spent.turns, spent.usd)
            assert scope.held.tokens == sum(each.need[0] for each in mine)

    def teardown(self) -> None:
        for ticket in self.in_flight:
            ticket.settle(Usage())
        for scope in self.scopes:
            assert scope.held.tokens == 0
            assert scope.held.usd == 0


Ledger.TestCase.settings = settings(stateful_step_count=40)
TestLedger = Ledger.TestCase


def test_a_closed_scope_leaves_nothing_in_memory() -> None:
    budget = Budget("task", tokens=10**9)

    def many(count: int) -> None:
        for _ in range(count):
            with budget.open() as scope:
                scope.admit(Call(input_tokens=10, loop=("x",))).settle(Usage(10, 10))

    many(200)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    many(2_000)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000


def test_an_open_scope_does_not_grow_with_its_calls() -> None:
    with Budget("service", tokens=10**12).open() as scope:
        for _ in range(200):
            scope.admit(Call(input_tokens=10)).settle(Usage(10, 10))
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5_000):
            scope.admit(Call(input_tokens=10)).settle(Usage(10, 10))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    assert grown < 5_000
