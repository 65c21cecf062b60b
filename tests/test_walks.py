"""The pages that walk through the code name files and functions that are there."""

import ast
import re
from pathlib import Path

import pytest

MOST_FILES = {"a-download.md": 15}
"""Page -> how many files its walk may take: a longer one is a sign of a maze."""
STEP = re.compile(
    r"^(?P<number>\d+)\. `(?P<path>[\w/.]+)`, `(?P<name>[\w.]+)`: (?P<sentence>.+)\.$"
)


@pytest.mark.parametrize(("page", "most"), MOST_FILES.items())
def test_a_walk_is_short_and_its_names_are_true(
    repository: Path, page: str, most: int
) -> None:
    text = (repository / "docs/explanations" / page).read_text()
    lines = [line for line in text.splitlines() if re.match(r"\d", line)]
    steps = [STEP.match(line) for line in lines]
    assert all(steps), lines[steps.index(None)]
    assert [int(step["number"]) for step in steps if step] == [
        *range(1, len(steps) + 1)
    ]
    paths = [step["path"] for step in steps if step]
    assert len(set(paths)) == len(paths) <= most
    for step in filter(None, steps):
        tree = ast.parse((repository / step["path"]).read_text())
        assert step["name"] in _names(tree), step[0]
        assert ". " not in step["sentence"], step[0]


def _names(tree: ast.Module) -> set[str]:
    """Functions, classes, and their methods as `Class.method`."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    top = [node for node in tree.body if isinstance(node, kinds)]
    inner = (
        f"{node.name}.{part.name}"
        for node in top
        for part in node.body
        if isinstance(part, kinds)
    )
    return {node.name for node in top} | set(inner)
