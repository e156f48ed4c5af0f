"""Shapes of parsed JSON: reading what a client sent without trusting its form.

A provider must answer 400, not crash, whatever it is sent, so every look into a request goes
through these readers, which never raise.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

Json: TypeAlias = dict[str, Any]
"""A parsed JSON object."""


def table(value: object) -> Json:
    """The value if it is a JSON object, else an empty one."""
    return cast("Json", value) if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def tables(value: object) -> list[Json]:
    """The JSON objects of an array, whatever else is in it left out."""
    return [item for item in items(value) if isinstance(item, dict)]


def number(value: object) -> int | None:
    """The value if it is an integer (a boolean is none), else `None`."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def words(content: object) -> str:
    """The text of a message's content: the string itself, or the text blocks of a list joined."""
    if isinstance(content, str):
        return content
    return "".join(str(block.get("text") or "") for block in tables(content))
