"""A page's blocks are run in order, and a page that says something wrong fails."""

import time
from pathlib import Path

import pytest

from tests.docs.page_runner import blocks_of, run_page

GOOD = """# A page

<!-- file: made/by_page.txt -->
```
one
two
```

```console
$ export COLOUR=grey
$ cat made/by_page.txt \\
    | head -1
one
$ echo "a tile of 2048 px"
a tile of ... px
```

```bash
cd made
test $COLOUR = grey
```

```python
width = 3
```

```python
print(width * 2)
```

<!-- not run: needs a microscope -->
```console
$ false
```

<!-- status: 1 -->
```console
$ false
```
"""


def test_blocks_run_in_order_and_share_what_they_set(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(GOOD)
    outputs = run_page(page, tmp_path)
    assert [output.split() for output in outputs] == [
        ["one", "a", "tile", "of", "2048", "px"],
        [],
        [],
        ["6"],
        [],
    ]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("```console\n$ false\n```\n", "status 1, not 0"),
        ("```console\n$ echo three\nfour\n```\n", "no line 'four'"),
        ("```bash\nfalse\ntrue\n```\n", "status 1, not 0"),
        ("```python\nnothing\n```\n", "NameError"),
        ("```\nnothing\n```\n", "no block of this page was run"),
    ],
)
def test_a_page_that_says_something_wrong_fails(
    block: str, message: str, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n{block}")
    with pytest.raises((pytest.fail.Exception, AssertionError), match=message):
        run_page(page, tmp_path, timeout_s=10)


def test_a_block_knows_its_line_and_its_comment(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n<!-- not run: internet -->\n```console\n$ ls\n```\n")
    (block,) = blocks_of(page)
    assert (block.line, block.language, block.noted("not run")) == (
        5,
        "console",
        "internet",
    )


def test_what_a_page_leaves_in_the_background_ends(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ sleep 600 & echo $! > pid\n```\n")
    run_page(page, tmp_path)
    process = f"/proc/{int((tmp_path / 'pid').read_text())}/stat"
    deadline = time.monotonic() + 10
    while Path(process).exists() and Path(process).read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.05)
