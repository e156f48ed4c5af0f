"""Every example of the documentation runs, offline, and prints what the page says it prints.

The Python blocks of a page share one namespace, in order. A block of `text` right after one is what
it prints. A block that cannot run here is marked by a comment: `<!-- not run: why -->`.
"""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

import budgetguard
from budgetguard import events
from budgetguard.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *(page for page in [ROOT / "README.md"] if page.exists())]
BLOCK = re.compile(
    r"(?P<skipped><!-- not run: [^\n]+ -->\n+)?^```python\n(?P<code>.*?)^```$"
    r"(?:\n+^```text\n(?P<printed>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    line: int
    code: str
    printed: str | None
    """What it prints; `None` where the page does not say."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(text.count("\n", 0, found.start("code")), found["code"], found["printed"])
        for found in BLOCK.finditer(text)
        if not found["skipped"]
    ]


@pytest.fixture
def agent() -> Iterator[Any]:
    """The agent that the reader has already, on the pages that begin with one."""
    with LoopbackProvider("four") as provider:
        model = ChatOpenAI(model="gpt-4o", base_url=provider.openai_url, api_key=SecretStr("test"))
        yield create_agent(model, [])


# langchain-openai leaves the clients of an ended event loop to the collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_the_examples_of_a_page_run_and_print_what_it_says(
    page: Path, agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    if page.name in ("index.md", "README.md"):
        namespace["agent"] = agent
    subscribers = events._subscribers
    for block in blocks(page):
        code = compile("\n" * block.line + block.code, str(page), "exec", dont_inherit=True)
        with redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        if block.printed is not None:
            assert printed.getvalue() == block.printed, f"{name_of(page)}:{block.line}"
    assert events._subscribers == subscribers
    assert budgetguard.current_scope() is None


def test_every_python_block_is_found() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        assert len(list(BLOCK.finditer(text))) == text.count("```python"), name_of(page)


def test_every_record_and_every_field_of_it_is_on_the_events_page() -> None:
    page = (DOCS / "events.md").read_text("utf-8")
    for record in events.Event.__subclasses__():
        for name in (record.__name__, *(each.name for each in fields(record))):
            assert f"`{name}`" in page, f"{record.__name__}.{name}"


def test_every_public_name_is_somewhere_in_the_documentation() -> None:
    said = "\n".join(page.read_text("utf-8") for page in DOCS.glob("*.md"))
    missing = [
        name for name in budgetguard.__all__ if not re.search(rf"\b{re.escape(name)}\b", said)
    ]
    assert missing == ["__version__"]


def test_nobody_is_told_to_install_the_package_of_somebody_else() -> None:
    for page in PAGES:
        assert not re.search(r"(install|add) [\"']?budgetguard\b", page.read_text("utf-8"))


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        assert page.relative_to(DOCS).as_posix() in navigation
