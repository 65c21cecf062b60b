"""Names are shown as they are, whatever they hold; a CommonMark parser judges it."""

import re
from html import unescape
from pathlib import Path

import cv2
import dagster as dg
import numpy as np
import pytest
from markdown_it import MarkdownIt

from em_platform.assets.metadata import (
    bullets,
    code,
    failure_table,
    picture,
    picture_file,
    table,
)
from em_platform.model import Failure
from em_platform.storage import open_store

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
    # Dagster shows the cells of its tables as they are.
    assert cells(table(("item",), [(name,)])) == [{"item": name.strip()}]
    tags, texts = shown(bullets([name]))
    assert texts == [name.strip()]
    assert tags == {"ul", "li"}


def cells(value: object) -> list[dict[str, object]]:
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def test_numbers_of_a_table_are_numbers() -> None:
    made = table(("tile", "points", "score"), [("a", 3, 1), ("b", 4, 0.5)])
    assert cells(made)[1] == {"tile": "b", "points": 4, "score": 0.5}
    assert isinstance(made, dg.TableMetadataValue)
    kinds = [column.type for column in made.schema.columns]
    assert kinds == ["string", "int", "float"]


def test_a_long_table_says_how_many_rows_it_leaves_out() -> None:
    made = cells(table(("n", "square"), [(n, n * n) for n in range(70)]))
    assert len(made) == 51
    assert made[-1] == {"n": "and 20 more", "square": ""}


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
    assert cells(failure_table(failures)) == [
        {"item": "a", "what happened": "x ![y](http://evil.example/z.png)"}
    ]


def test_the_title_of_a_picture_adds_no_other_picture() -> None:
    png = cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes()
    shown_here = picture(png, "x](http://evil.example/a.png) ![y").value
    [source] = re.findall('src="([^"]*)"', MARKDOWN.render(str(shown_here)))
    assert source.startswith("data:image/webp;base64,")


def test_a_thumbnail_is_small_and_the_picture_is_a_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (900, 900), dtype=np.uint8)
    png = cv2.imencode(".png", noise)[1].tobytes()
    store = open_store(str(tmp_path))
    made = picture_file(
        "residuals", png, shows="seams", store=store, name="a/residuals.png"
    )
    assert [*made] == ["residuals", "residuals, full size"]
    assert str(made["residuals"].value).startswith("![seams](")
    # Of the history's 150 kB a montage; three such pictures are kept of each.
    assert len(str(made["residuals"].value)) <= 15_000
    assert Path(str(made["residuals, full size"].value)).read_bytes() == png
