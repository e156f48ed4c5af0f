"""Upper estimates of the tokens in a text, by script, at the speed of C.

This is not a tokenizer: texts without words (random letters, boards of single symbols) and
languages that cl100k was not made for can be under-counted until a model was first billed for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

Script = Literal["plain", "dense", "cjk", "other"]
"""plain: Latin prose and most code; dense: JSON, numbers, hex, base64; cjk: Chinese, Japanese and
Korean; other: every other script, and emoji."""

SCRIPTS: Final[tuple[Script, ...]] = get_args(Script)

# Thousandths of a token per feature of a text. A linear program found the least weights for which
# texts of 90 kinds (prose, code, Markdown, JSON, CSV, logs, hex, base64, numbers, whitespace, 45
# languages) stay above the larger of their o200k and cl100k counts (2026-11-20); rounded up by
# hand. Of texts it had not seen, 95 to 100 in 100 did, puzzles of symbols 92, Urdu and Lao none.
# Claude is said to count up to 1.35 times o200k, which the room left on prose covers.
_MILLI: Final = 1_000
_SPARE: Final = 2_000  # per text, for the unevenness of short ones
_LETTER: Final = 370
_DIGIT: Final = 334
_NUMBER: Final = 1_600  # per run of digits
_MARK: Final = 620  # punctuation
_BLANK: Final = 80
_BREAK: Final = 1_200  # newlines, tabs and other control characters
_HUMP: Final = 1_100  # a small letter before a capital: camelCase, base64

# Beyond ASCII, the same per UTF-16 unit, by its high byte.
_PAGES: Final[tuple[tuple[Script, int, Iterable[int]], ...]] = (
    ("plain", 1_850, (0x00, 0x01, 0x02, 0x1E)),  # accented Latin
    ("plain", 1_400, range(0x20, 0x30)),  # typographic punctuation, arrows, boxes
    ("cjk", 1_750, (*range(0x34, 0xA0), 0xF9, 0xFA)),  # Chinese characters
    ("cjk", 1_450, (*range(0x30, 0x34), *range(0xAC, 0xD8), 0xFF)),  # kana, Hangul, their marks
    ("other", 950, (0x04, 0x06, 0x07, 0xFB, 0xFD, 0xFE)),  # Cyrillic, Arabic
    ("other", 1_150, (0x0E,)),  # Thai
    ("other", 1_450, (0x03, 0x09, 0x1F)),  # Greek, Devanagari, Bengali
    ("other", 1_700, range(0xD8, 0xE0)),  # half of an emoji
    ("other", 2_100, (0x05, *range(0x0A, 0x0E))),  # Hebrew, Armenian, the rest of India
    ("other", 3_000, range(0x100)),  # whatever is left: a token per byte
)


class Tally(NamedTuple):
    """An upper estimate of the tokens of a text, by script class."""

    plain: int = 0
    dense: int = 0
    cjk: int = 0
    other: int = 0


_NOTHING: Final = Tally()


def _kind(code: int) -> str:
    """Which of `a A 0 . ` and newline stands for an ASCII character."""
    character = chr(code)
    if character.isalpha():
        return "a" if character.islower() else "A"
    if character.isprintable():
        return "0" if character.isdigit() else " " if character == " " else "."
    return "\n"


_KINDS: Final = "".join(map(_kind, range(128))).encode() + bytes(128)
_DIGITS: Final = bytes(ord("0" if chr(code) in "0123456789" else "x") for code in range(256))
_LEVELS: Final = bytes(
    next(level for level, page in enumerate(_PAGES) if high in page[2]) for high in range(256)
)


def tally(text: str) -> Tally:
    """Estimate the tokens of a text from above, for any of today's tokenizers.

    2 us for 200 ASCII characters, under 1 ms for 100 kB. About 1.6 times o200k on English prose,
    1.5 on code, 1.4 on JSON, 1.9 on Chinese; 3 and more on scripts cl100k spells out in bytes.
    """
    if text.isascii():
        return _ascii(text.encode(), 0)
    units = text.encode("utf-16-le", "surrogatepass")
    ascii_part = text.encode("ascii", "ignore")
    levels = units[1::2].translate(_LEVELS)
    milli = {"plain": -len(ascii_part) * _PAGES[0][1], "cjk": 0, "other": 0}
    for level, (script, weight, _) in enumerate(_PAGES):
        milli[script] += levels.count(level) * weight
    latin = _ascii(ascii_part, milli["plain"])
    return Tally(latin.plain, latin.dense, -(-milli["cjk"] // _MILLI), -(-milli["other"] // _MILLI))


def _ascii(text: bytes, accents: int) -> Tally:
    kinds = text.translate(_KINDS)
    digits = kinds.count(b"0")
    marks = kinds.count(b".")
    blanks = kinds.count(b" ")
    breaks = kinds.count(b"\n")
    humps = kinds.count(b"aA")
    letters = len(text) - digits - marks - blanks - breaks
    milli = letters * _LETTER + marks * _MARK + blanks * _BLANK + breaks * _BREAK + humps * _HUMP
    if digits:
        milli += digits * _DIGIT + text.translate(_DIGITS).count(b"x0") * _NUMBER
    tokens = (milli + accents + _SPARE + _MILLI - 1) // _MILLI if text or accents else 0
    if 10 * (digits + marks + humps) > 3 * letters:
        return Tally(0, tokens, 0, 0)
    return Tally(tokens, 0, 0, 0)
