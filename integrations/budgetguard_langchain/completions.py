"""Completion models (`BaseLLM`): counted and refused by callback, neither steered nor waited for.

They have no entry points of ours, so a callback has to do: it can refuse a call before it is made,
and it sees the answer. A callback must not wait, so a call that would have to is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from budgetguard import BudgetGuardError, Call, Scope, Ticket, Usage
from budgetguard.mode import forced_mode
from budgetguard.tally import tally
from budgetguard_langchain import runs
from budgetguard_langchain.errors import unswallowable
from budgetguard_langchain.failures import is_error_answer, was_never_sent
from budgetguard_langchain.reach import run_info

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.outputs import LLMResult

    from budgetguard_langchain.runs import Guard


class _Completion(NamedTuple):
    ticket: Ticket
    own: Scope | None
    """The scope that was opened for this call alone."""


_calls: Final[dict[int, _Completion]] = {}


def started(
    guard: Guard, prompts: list[str], run_id: UUID, parent_id: UUID | None, kwargs: dict[str, Any]
) -> None:
    """Admit a call of a completion model, once however many handlers see it.

    Raises:
        BudgetExceeded: If it is refused, or would have to wait.
    """
    if run_id.int in _calls or forced_mode() == "off":
        return
    run = runs.RUNS.get(parent_id.int) if parent_id is not None else None
    scope = runs.innermost(None if run is None else run.scope)
    own = None
    try:
        if run is None:
            own = guard.open(scope, lambda: run_info(kwargs, prompts))
        scope = own or scope
        if scope is not None:
            _calls[run_id.int] = _Completion(_admit(scope, prompts, kwargs), own)
    except BudgetGuardError as error:
        if own is not None:
            own.close()
        raise unswallowable(error) from None


def ended(run_id: UUID, response: LLMResult) -> None:
    """Settle by what the model reports, else by an estimate of its text."""
    known = _calls.pop(run_id.int, None)
    if known is None:
        return
    known.ticket.settle(_usage(known.ticket, response))
    if known.own is not None:
        known.own.close()


def failed(run_id: UUID, error: BaseException) -> None:
    """Settle a call that raised."""
    known = _calls.pop(run_id.int, None)
    if known is None:
        return
    if was_never_sent(error):
        known.ticket.release()
    elif is_error_answer(error):
        known.ticket.settle(Usage())
    else:
        known.ticket.settle_unanswered()
    if known.own is not None:
        known.own.close(error=isinstance(error, Exception))


def _admit(scope: Scope, prompts: list[str], kwargs: dict[str, Any]) -> Ticket:
    params: dict[str, Any] = kwargs.get("invocation_params") or {}
    cap = params.get("max_tokens")
    call = Call(
        model=str(params.get("model_name") or params.get("model") or "a completion model"),
        input_tokens=sum(sum(tally(prompt)) for prompt in prompts),
        max_output_tokens=cap if isinstance(cap, int) and cap > 0 else None,
        can_change_model=False,
    )
    return scope.admit_now(call, "a completion model cannot wait")


def _usage(ticket: Ticket, response: LLMResult) -> Usage:
    reported: dict[str, Any] = (response.llm_output or {}).get("token_usage") or {}
    sent, received = reported.get("prompt_tokens"), reported.get("completion_tokens")
    if isinstance(sent, int) and isinstance(received, int) and sent > 0 and received >= 0:
        return Usage(sent, received)
    texts = [each.text for group in response.generations for each in group]
    seen = sum(sum(tally(text)) for text in texts)
    return Usage(ticket.need[1], seen, estimated=True)
