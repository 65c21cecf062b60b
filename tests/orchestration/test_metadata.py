"""Names are shown as they are, whatever they hold; a CommonMark parser judges it."""

import re
from html import unescape

import pytest
from markdown_it import MarkdownIt

from em_platform.assets.metadata import bullets, code, failure_table, picture, table
from em_platform.model import Failure

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

NAMES = (
    "![tile](http://evil.example/seen.png)",
    "[mosaic](http://evil.example/)",
    '<img src="http://evil.example/seen.png">',
    "<http://evil.example/>",
    "a|b",
    "a`b`` c",
    "_bold_ *and* __more__ ~~gone~~",
    "tile_000_001.tiff",
    "a\\|b &lt; \\* 50 %",
    "# 1",
    "1. first",
    "- 3",
    "--- x",
    "-3.5",
    "## ",
)


def shown(markdown: object) -> tuple[set[str], list[str]]:
    """The tags that a page makes of it, and its texts."""
    html = MARKDOWN.render(str(markdown))
    tags = set(re.findall(r"<(\w+)", html))
    texts = (unescape(text).strip() for text in re.split(r"<[^>]+>", html))
    return tags, [text for text in texts if text]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_in_tables_and_lists(name: str) -> None:
    tags, texts = shown(table(("item",), [(name,)]).value)
    assert texts == ["item", name.strip()]
    assert tags == {"table", "thead", "tr", "th", "tbody", "td"}
    tags, texts = shown(bullets([name]))
    assert texts == [name.strip()]
    assert tags == {"ul", "li"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_in_a_command(name: str) -> None:
    tags, texts = shown(code(f"em-platform view {name}").value)
    assert texts == [f"em-platform view {name}".strip()]
    assert tags == {"p", "code"}


def test_a_sentence_of_two_lines_stays_in_its_cell() -> None:
    failures = [
        Failure(
            item="a",
            error="FormatError",
            sentence="x\n\n![y](http://evil.example/z.png)",
        )
    ]
    tags, texts = shown(failure_table(failures).value)
    assert texts[-2:] == ["a", "x ![y](http://evil.example/z.png)"]
    assert not tags & {"img", "a"}


def test_the_title_of_a_picture_adds_no_other_picture() -> None:
    shown_here = picture(b"\x89PNG", "x](http://evil.example/a.png) ![y").value
    html = MARKDOWN.render(str(shown_here))
    assert re.findall('src="([^"]*)"', html) == ["data:image/png;base64,iVBORw=="]
