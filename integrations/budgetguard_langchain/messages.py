"""What a LangChain message puts on the wire, for counting; never kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

MEDIA_TOKENS: Final = 1_600
"""Upper estimate of an image or another piece of media, in tokens.

Anthropic bounds an image at about 1,600 tokens; OpenAI's high detail comes to 765 for a square one
(platform.claude.com/docs, vision; platform.openai.com/docs, images).
"""

LAST_CALL: Final = (
    "The budget for this task is used up: this is your last answer. Do not call any tool. Say what "
    "you found or did, what is still open, and answer as well as you can."
)
"""What is appended to the input of the last call of an agent loop."""

CHARACTERS_A_TOKEN: Final = 40
"""Base64 characters of a document or recording that make a token, at least: a page of a PDF is 1.5
to 3 thousand tokens (platform.claude.com/docs, PDF support) and rarely below 100 kB."""

_DATA: Final = 200  # a text this long without a space is data
_BARE: Final = 4  # the words of a block that only names a file
_NO_ANSWER: Final = "The budget for this task is used up, and the last call gave no answer."


def texts(message: BaseMessage) -> Iterator[str | int]:
    """The pieces of a message: text to be counted, or a number of tokens for what is not text."""
    content = message.content
    if isinstance(content, str):
        yield content
    else:
        for block in content:
            yield from _block(block)
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            yield call["name"]
            yield json.dumps(call["args"], ensure_ascii=False, default=str)


def _block(block: str | dict[str, Any]) -> Iterator[str | int]:
    if isinstance(block, str):
        yield block
        return
    kind = block.get("type")
    if kind in ("text", "thinking", "reasoning"):
        yield str(block.get("text") or block.get(str(kind)) or "")
    elif kind in ("tool_use", "tool_call", "input_json_delta", "function_call"):
        return  # counted as one of the message's tool_calls
    elif kind in ("image", "image_url", "input_image"):
        yield MEDIA_TOKENS
    elif kind in ("audio", "video", "file", "document", "input_audio"):
        yield from _document(block)
    else:
        yield json.dumps(block, ensure_ascii=False, default=str)


def _document(block: dict[str, Any]) -> Iterator[str | int]:
    """A document as its text, or by the size of its data where that is not text."""
    texts_in, size = list[str](), 0
    parts: list[Any] = [block]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts.extend(cast("dict[str, Any]", part).values())
        elif isinstance(part, list):
            parts.extend(cast("list[Any]", part))
        elif isinstance(part, str) and len(part) > _DATA and " " not in part[:_DATA]:
            size += len(part)
        elif isinstance(part, str):
            texts_in.append(part)
    yield " ".join(texts_in)
    if size or len(texts_in) <= _BARE:
        yield max(MEDIA_TOKENS, size // CHARACTERS_A_TOKEN)


def is_answer(message: BaseMessage) -> bool:
    """Whether a model wrote it."""
    return isinstance(message, AIMessage)


def with_last_instruction(messages: list[BaseMessage]) -> list[BaseMessage]:
    """A copy of the conversation that asks for the last answer; the caller's list is untouched."""
    return [*messages, HumanMessage(LAST_CALL)]


def strip_tool_calls(message: AIMessage) -> None:
    """Take out the tool calls that a model made although tools were off; leave an answer."""
    if not message.tool_calls and not message.invalid_tool_calls:
        return
    message.tool_calls = []
    message.invalid_tool_calls = []
    message.additional_kwargs.pop("tool_calls", None)
    message.content = _without_tool_use(message.content)
    if not message.text.strip():
        message.content = _NO_ANSWER


def without_tool_calls(chunk: AIMessageChunk) -> AIMessageChunk:
    """The chunk of a last call without what it says of tools."""
    if not chunk.tool_call_chunks and isinstance(chunk.content, str):
        return chunk
    content = _without_tool_use(chunk.content)
    return chunk.model_copy(update={"content": content, "tool_call_chunks": [], "tool_calls": []})


def _without_tool_use(
    content: str | list[str | dict[str, Any]],
) -> str | list[str | dict[str, Any]]:
    if isinstance(content, str):
        return content
    kinds = ("tool_use", "input_json_delta")
    return [each for each in content if isinstance(each, str) or each.get("type") not in kinds]
