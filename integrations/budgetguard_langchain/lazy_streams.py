"""Streams that start when somebody pulls (`stream_events(version="v3")`): settled by callback.

Such a call is admitted when the stream is made; a small handler of its own, first in the list,
sees how it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager

from budgetguard_langchain.marks import mark, unmark

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import RunnableConfig

    from budgetguard_langchain.guarded_call import GuardedCall


class _Watcher(BaseCallbackHandler):
    """Settles one call when its stream ends."""

    run_inline = True  # LangChain: call it in the run's own context, also under asyncio

    def __init__(self, call: GuardedCall) -> None:
        self._call = call

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, **_: Any
    ) -> None:
        mark(run_id)
        self._call.run_id = run_id

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **_: Any) -> None:
        message = getattr(chunk, "message", None)
        if message is not None:
            self._call.seen(message)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        unmark(run_id)
        self._call.succeeded(response.generations[0])
        self._call.close()

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        unmark(run_id)
        self._call.failed(error)
        self._call.close(error)


def watched(config: RunnableConfig, call: GuardedCall) -> RunnableConfig:
    """The config with a handler, first in the list, that settles `call`."""
    callbacks, watcher = config.get("callbacks"), _Watcher(call)
    if isinstance(callbacks, BaseCallbackManager):
        manager = callbacks.copy()
        manager.handlers.insert(0, watcher)
        return {**config, "callbacks": manager}
    return {**config, "callbacks": [watcher, *(callbacks or [])]}
