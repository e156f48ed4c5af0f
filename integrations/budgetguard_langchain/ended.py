"""The model that answers when a budget ends quietly: a typed message, no request, no cost.

It takes the place of the user's model for one call, so that callbacks, streams and events of every
kind see an ordinary answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from budgetguard import BudgetStopped


class EndedModel(BaseChatModel):
    """Says that the budget has ended."""

    text: str
    details: dict[str, Any]

    @property
    def _llm_type(self) -> str:
        return "budgetguard-ended"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        message = AIMessage(self.text, response_metadata={"budgetguard": self.details})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        message = AIMessageChunk(content=self.text, response_metadata={"budgetguard": self.details})
        yield ChatGenerationChunk(message=message)


def ended_model(stopped: BudgetStopped) -> EndedModel:
    """The model that says so: `response_metadata["budgetguard"]["ended"] == "stop"`."""
    details = {
        "ended": "stop",
        "budget": stopped.path,
        "meter": stopped.meter,
        "used": str(stopped.used),
        "limit": str(stopped.limit),
    }
    return EndedModel(text=f"Stopped: {stopped}", details=details, cache=False)
