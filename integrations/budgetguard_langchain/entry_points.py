"""The six entry points of `BaseChatModel` that no provider class overrides, guarded.

`install()` wraps them once for the process; without a budget in reach the wrappers pass straight
through. `guarded_methods()` are the same wrappers for one subclass, which is how `attach` guards a
single model without any patch.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.outputs import LLMResult
from langchain_core.runnables.config import ensure_config

from budgetguard_langchain.lazy_streams import watched
from budgetguard_langchain.marks import inside
from budgetguard_langchain.reach import in_reach, reach, streams_anyway, without_guards

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from langchain_core.messages import AIMessageChunk

    from budgetguard_langchain.runs import Guard

_INFO: Final = ("tags", "metadata", "run_name", "run_id")
_NAMES: Final = (
    "generate",
    "agenerate",
    "stream",
    "astream",
    "_chat_model_stream_v3",
    "_achat_model_stream_v3",
)
_installing = threading.Lock()  # two handlers may be made at the same time
_installed: list[bool] = []


def install() -> None:
    """Guard every chat model of this process; calling it again changes nothing."""
    with _installing:
        if _installed:
            return
        for name, method in guarded_methods(BaseChatModel).items():
            setattr(BaseChatModel, name, method)
        _installed.append(True)


def guarded_methods(
    base: type[BaseChatModel], own: tuple[Guard, ...] = ()
) -> dict[str, Callable[..., Any]]:
    """The six entry points of `base`, wrapped; `own` are the guards of the class they go to."""
    return {
        name: make(getattr(base, name), own)
        for name, make in zip(_NAMES, _MAKERS, strict=True)
        if hasattr(base, name)
    }


def _generate(original: Any, own: tuple[Guard, ...]) -> Any:
    @functools.wraps(original)
    def generate(
        self: Any, messages: Any, stop: Any = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        info = {name: kwargs.pop(name) for name in _INFO if name in kwargs}
        if len(messages) > 1 and in_reach(self, callbacks, own):
            apart = _apart(messages, info)
            return _merged(
                self, [generate(self, one, stop, callbacks, **of, **kwargs) for one, of in apart]
            )
        call = reach(self, callbacks, own, messages[-1], info) if messages else None
        if call is None:
            return original(self, messages, stop, callbacks, **info, **kwargs)
        with call:
            streams = streams_anyway(self, callbacks, kwargs)
            model, sent, kwargs = call.admit(self, messages[0], kwargs, streams=streams)
            with inside():
                others = without_guards(callbacks)
                result = original(model, [sent], stop, others, **info, **kwargs)
            call.succeeded(result.generations[0])
            return result

    return generate


def _agenerate(original: Any, own: tuple[Guard, ...]) -> Any:
    @functools.wraps(original)
    async def agenerate(
        self: Any, messages: Any, stop: Any = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        info = {name: kwargs.pop(name) for name in _INFO if name in kwargs}
        if len(messages) > 1 and in_reach(self, callbacks, own):
            apart = _apart(messages, info)
            calls = [agenerate(self, one, stop, callbacks, **of, **kwargs) for one, of in apart]
            return _merged(self, await asyncio.gather(*calls))
        call = reach(self, callbacks, own, messages[-1], info) if messages else None
        if call is None:
            return await original(self, messages, stop, callbacks, **info, **kwargs)
        with call:
            streams = streams_anyway(self, callbacks, kwargs)
            model, sent, kwargs = await call.aadmit(self, messages[0], kwargs, streams=streams)
            with inside():
                others = without_guards(callbacks)
                result = await original(model, [sent], stop, others, **info, **kwargs)
            call.succeeded(result.generations[0])
            await call.delivered()
            return result

    return agenerate


def _stream(original: Any, own: tuple[Guard, ...]) -> Any:
    @functools.wraps(original)
    def stream(
        self: Any,
        input: Any,
        config: Any = None,
        *,
        stop: Any = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        if not self._should_stream(async_api=False, **{**kwargs, "stream": True}):
            yield from original(self, input, config, stop=stop, **kwargs)  # which calls generate()
            return
        config = ensure_config(config)
        call = reach(self, config.get("callbacks"), own, input, config)
        if call is None:
            yield from original(self, input, config, stop=stop, **kwargs)
            return
        with call:
            messages = self._convert_input(input).to_messages()
            model, sent, kwargs = call.admit(self, messages, kwargs, streams=True)
            with contextlib.closing(original(model, sent, config, stop=stop, **kwargs)) as chunks:
                with inside():
                    chunk = next(chunks, None)
                while chunk is not None:
                    yield call.seen(chunk)
                    chunk = next(chunks, None)
            call.streamed()

    return stream


def _astream(original: Any, own: tuple[Guard, ...]) -> Any:
    @functools.wraps(original)
    async def astream(
        self: Any,
        input: Any,
        config: Any = None,
        *,
        stop: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        config = ensure_config(config)
        streams = self._should_stream(async_api=True, **{**kwargs, "stream": True})
        call = reach(self, config.get("callbacks"), own, input, config) if streams else None
        if call is None:
            async with contextlib.aclosing(
                original(self, input, config, stop=stop, **kwargs)
            ) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        with call:
            messages = self._convert_input(input).to_messages()
            model, sent, kwargs = await call.aadmit(self, messages, kwargs, streams=True)
            inner = original(model, sent, config, stop=stop, **kwargs)
            async with contextlib.aclosing(inner) as chunks:
                with inside():
                    chunk = await anext(chunks, None)
                while chunk is not None:
                    yield call.seen(chunk)
                    chunk = await anext(chunks, None)
            call.streamed()
            await call.delivered()

    return astream


def _stream_v3(original: Any, own: tuple[Guard, ...]) -> Any:
    @functools.wraps(original)
    def stream_v3(
        self: Any,
        input: Any,
        config: Any = None,
        *,
        stop: Any = None,
        **kwargs: Any,
    ) -> Any:
        config = ensure_config(config)
        call = reach(self, config.get("callbacks"), own, input, config)
        if call is None:
            return original(self, input, config, stop=stop, **kwargs)
        with call.until_answered():
            messages = self._convert_input(input).to_messages()
            model, sent, kwargs = call.admit(self, messages, kwargs, streams=True)
            stream = original(model, sent, watched(config, call), stop=stop, **kwargs)
            weakref.finalize(stream, call.abandoned)
            return stream

    return stream_v3


def _astream_v3(original: Any, own: tuple[Guard, ...]) -> Any:
    @functools.wraps(original)
    async def astream_v3(
        self: Any,
        input: Any,
        config: Any = None,
        *,
        stop: Any = None,
        **kwargs: Any,
    ) -> Any:
        config = ensure_config(config)
        call = reach(self, config.get("callbacks"), own, input, config)
        if call is None:
            return await original(self, input, config, stop=stop, **kwargs)
        with call.until_answered():
            messages = self._convert_input(input).to_messages()
            model, sent, kwargs = await call.aadmit(self, messages, kwargs, streams=True)
            stream = await original(model, sent, watched(config, call), stop=stop, **kwargs)
            weakref.finalize(stream, call.abandoned)
            return stream

    return astream_v3


def _apart(messages: list[Any], info: dict[str, Any]) -> list[tuple[list[Any], dict[str, Any]]]:
    """The prompts of a batch one by one, so that each is admitted when its turn has come."""
    rest = {name: value for name, value in info.items() if name != "run_id"}
    return [([each], rest if index else info) for index, each in enumerate(messages)]


def _merged(model: Any, results: list[LLMResult]) -> LLMResult:
    merged = LLMResult(
        generations=[each.generations[0] for each in results],
        llm_output=model._combine_llm_outputs([each.llm_output for each in results]),  # noqa: SLF001 -- as generate() does
    )
    merged.run = [run for each in results for run in each.run or ()]
    return merged


_MAKERS: Final = (_generate, _agenerate, _stream, _astream, _stream_v3, _astream_v3)
