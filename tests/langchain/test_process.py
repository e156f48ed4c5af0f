"""What only a process of its own can show: the first call, the collector, the emergency switch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "PYTHONPATH": ":".join(sys.path), **environment}
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=known,
        timeout=30,
    )


FIRST = """
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from budgetguard import Budget, events
from budgetguard.testing import LoopbackProvider
from budgetguard_langchain import BudgetCallbackHandler

settled = []
events.subscribe(lambda e: settled.append(e) if isinstance(e, events.Settled) else None)

with LoopbackProvider("four") as provider:
    model = ChatOpenAI(model="gpt-4o", base_url=provider.openai_url, api_key="test")
    BUDGET = Budget("task", turns=1)
    CALL
    print(provider.calls, len(settled))
"""


@pytest.mark.parametrize(
    "call",
    [
        'list(model.stream("2+2", {"callbacks": [BudgetCallbackHandler(BUDGET)]}))',
        'model.generate([[HumanMessage("2+2")]], callbacks=[BudgetCallbackHandler(BUDGET)])',
    ],
)
def test_the_very_first_call_is_guarded_though_its_handler_is_made_in_its_arguments(call):
    done = run(FIRST.replace("CALL", call))
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["1 1"]


COLLECTED = """
import gc, os, threading
from langchain_openai import ChatOpenAI
from budgetguard import Budget
from budgetguard.stores.memory import STORE
from budgetguard.testing import LoopbackProvider
from budgetguard_langchain import BudgetCallbackHandler

provider = LoopbackProvider("one two three four five six")
handlers = [BudgetCallbackHandler()]
model = ChatOpenAI(model="gpt-4o", base_url=provider.openai_url, api_key="test")

def collect():
    with STORE.lock:
        gc.collect()  # as any allocation may

with Budget("task", turns=5).open() as task:
    stream = model.stream("2+2", {"callbacks": handlers})
    next(stream)
    knot = [stream]
    knot.append(knot)
    del stream, knot
    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(3)
    if thread.is_alive():
        print("stuck", flush=True)
        os._exit(0)
    print("done")
    print(task.spent.turns, task.held.turns)
"""


def test_a_stream_collected_while_the_ledger_is_locked_blocks_nobody():
    done = run(COLLECTED)
    assert done.stdout.splitlines() == ["done", "1 0"]


SWITCH = """
import logging
from langchain_openai import ChatOpenAI
from budgetguard import Budget, BudgetExceeded, effort, events
from budgetguard.testing import LoopbackProvider
from budgetguard_langchain import BudgetCallbackHandler

class Counting(logging.Handler):
    lines = []
    def emit(self, record):
        self.lines.append(record.getMessage())

logging.getLogger("budgetguard").addHandler(Counting())
decided = []
events.subscribe(lambda e: decided.append(e) if isinstance(e, events.Decided) else None)
with LoopbackProvider("four") as provider:
    model = ChatOpenAI(model="gpt-5", base_url=provider.openai_url, api_key="test")
    budget = Budget("task", turns=1, policy=POLICY)
    with budget.open() as task:
        for _ in range(3):
            try:
                model.invoke("2+2", {"callbacks": [BudgetCallbackHandler()]})
            except BudgetExceeded:
                pass
    sent = [body.get("reasoning_effort") for body in provider.bodies]
    print(provider.calls, task.spent.turns, task.outcome, sent)
    print([each.decision for each in decided if not each.observed])
    print(Counting.lines)
"""
PLAIN, OBSERVE = 'effort("low")', '__import__("budgetguard").observe(effort("low"))'


@pytest.mark.parametrize(
    ("mode", "policy", "said"),
    [
        ("off", PLAIN, ["3 0 completed [None, None, None]", "[]"]),
        ("observe", PLAIN, ["3 3 completed [None, None, None]", "[]"]),
        ("enforce", OBSERVE, ["1 1 refused ['low']", "['effort', 'refuse', 'refuse']"]),
    ],
)
def test_the_environment_overrides_every_budget(mode, policy, said):
    done = run(SWITCH.replace("POLICY", policy), BUDGETGUARD_MODE=mode)
    *told, logged = done.stdout.splitlines()
    assert told == said
    assert logged == str([f"BUDGETGUARD_MODE={mode} overrides every budget"])


def test_a_mode_that_does_not_exist_is_refused_at_once():
    done = run('from budgetguard import Budget; Budget("task").open()', BUDGETGUARD_MODE="watch")
    assert done.returncode == 1
    assert "BUDGETGUARD_MODE must be one of off, observe, enforce, not 'watch'" in done.stderr


UNPATCHED = """
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_openai import ChatOpenAI
from budgetguard import Budget, BudgetExceeded
from budgetguard.testing import LoopbackProvider
from budgetguard_langchain import attach

names = ["generate", "agenerate", "stream", "astream", "_chat_model_stream_v3",
         "_achat_model_stream_v3"]
before = [getattr(BaseChatModel, name) for name in names]
with LoopbackProvider("four") as provider:
    model = ChatOpenAI(model="gpt-4o", base_url=provider.openai_url, api_key="test")
    guarded = attach(model, Budget("task", turns=1))
    with Budget("task", turns=1).open() as task:
        guarded.invoke("2+2")
        model.invoke("2+2")
        try:
            guarded.invoke("2+2")
        except BudgetExceeded:
            print("refused")
    print(provider.calls, task.spent.turns)
print([getattr(BaseChatModel, name) for name in names] == before)
"""


def test_nothing_is_patched_where_no_handler_was_made():
    done = run(UNPATCHED)
    assert done.stdout.splitlines() == ["refused", "2 1", "True"]
