"""Shipped fakes for tests and demos: a loopback model provider and recorded agent runs.

Standard library only, and nothing else of budgetguard, so that what they count is independent of
what they test. Importing this opens no socket.
"""

from budgetguard.testing.fault import Fault
from budgetguard.testing.hold import Hold
from budgetguard.testing.ledger import Exchange
from budgetguard.testing.provider import LoopbackProvider
from budgetguard.testing.recorded import (
    RecordedRun,
    airline_runs,
    recorded_tool_names,
    replay,
    tool_answer,
    tool_schemas,
)
from budgetguard.testing.reply import Reply, ToolCall
from budgetguard.testing.request import Request
from budgetguard.testing.script import Script
from budgetguard.testing.usage import Usage

__all__ = [
    "Exchange",
    "Fault",
    "Hold",
    "LoopbackProvider",
    "RecordedRun",
    "Reply",
    "Request",
    "Script",
    "ToolCall",
    "Usage",
    "airline_runs",
    "recorded_tool_names",
    "replay",
    "tool_answer",
    "tool_schemas",
]
