"""The structure holds: floors, sizes, names, and a test and a page for each room."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from benchmarks.house import WORDS
from em_platform.config import FIELDS
from em_platform.config.settings import ALIASES, OTHER_NAMES

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "em_platform"
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60

PAGES = {
    "acquisition": "acquisition",
    "aloha": "aloha",
    "assets": "orchestration",
    "catalog": "catalog",
    "cli": "configuration",
    "config": "configuration",
    "cryoem": "cryoem",
    "formats": "formats",
    "imaging": "imaging",
    "ingest": "ingest",
    "messaging": "messaging",
    "model": "architecture",
    "ome_zarr": "ome-zarr",
    "operator": "operator",
    "processes": "processes",
    "resources": "orchestration",
    "sensors": "orchestration",
    "simulation": "devices",
    "standins": "standins",
    "stitching": "stitching",
    "storage": "storage",
    "temdb": "temdb",
}
"""Room -> its page in docs/explanations."""

DAGSTER_ROOMS = {"assets", "resources", "sensors"}
"""Tested together in tests/orchestration."""

DAGSTER_FILES = ("jobs.py", "schedules.py", "partitions.py", "definitions.py")
DRAWERS = {"utils.py", "helpers.py", "common.py", "misc.py", "util.py", "helper.py"}

# Parts of the words stand apart, so that this file does not find itself.
FORBIDDEN_WORDS = (
    "pypi" + ".org",
    "python" + "hosted",
    "deb." + "debian",
    "security." + "debian",
    "npm" + "js.",
    "/work" + "/",
    "/tmp/" + "bash_jobs",
    "/home" + "/",
    "/root" + "/",
    "/Users" + "/",
)


def tracked() -> list[Path]:
    """Every file that git holds or would add."""
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)
    names = listed.stdout.decode().split("\0")
    return [REPOSITORY / n for n in names if n and (REPOSITORY / n).is_file()]


FILES = tracked()
SOURCES = [path for path in FILES if path.suffix == ".py"]
ROOMS = sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file())


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All within a node; most nodes are parts of expressions."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, name, ()):
            if isinstance(inner, ast.stmt):
                yield inner
            yield from statements(inner)


@dataclass
class Found:
    """What the sources hold; no tree is kept, they are large."""

    too_long: list[str] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    """Imported by the package."""


@cache
def found_in_sources() -> Found:
    found = Found()
    for path in SOURCES:
        for node in statements(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if lines_of(node) > MOST_LINES_OF_A_FUNCTION:
                    found.too_long += [f"{name_of(path)}:{node.lineno} {node.name}"]
            elif PACKAGE not in path.parents:
                continue
            elif isinstance(node, ast.Import):
                found.modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.modules.add(node.module.split(".")[0])
    return found


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines a function has without its docstring."""
    docstring = function.body[0] if ast.get_docstring(function) else None
    documented = docstring.end_lineno - docstring.lineno + 1 if docstring else 0  # type: ignore[operator]
    return (function.end_lineno or 0) - function.lineno + 1 - documented


def dagster_files() -> list[Path]:
    in_rooms = [p for room in DAGSTER_ROOMS for p in (PACKAGE / room).rglob("*.py")]
    return in_rooms + [PACKAGE / name for name in DAGSTER_FILES]


def test_no_file_is_too_long() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    too_long = {
        n: lines for n, lines in lengths.items() if lines > MOST_LINES_OF_A_FILE
    }
    assert not too_long


def test_no_function_is_too_long() -> None:
    assert not found_in_sources().too_long


# Loaded by a name in a text: a URL, a codec.
NAMED = {"psycopg", "pymysql", "s3fs", "zarrs"}
# Of what is declared with an extra, or comes with it and is of no use without it.
WITH_OTHERS = {
    "botocore": "s3fs",
    "distributed": "dask",
    "docker": "dagster-docker",
    "moto": "the bucket among the stand-ins, for developers",
    "pydantic-core": "pydantic",
    "torch": "the extra of that name",
}


def imported() -> set[str]:
    """The distributions that the package imports."""
    places = packages_distributions()
    modules = found_in_sources().modules - {*sys.stdlib_module_names, "em_platform"}
    named = {name for module in modules for name in places.get(module, [module])}
    return {name.lower().replace("_", "-") for name in named}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = {
        re.split(r"[^A-Za-z0-9._-]", each)[0].lower().replace("_", "-")
        for each in project["dependencies"]
    }
    used = imported()
    assert used - declared == WITH_OTHERS.keys()
    assert declared - used == NAMED


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_tests_and_a_page(room: str) -> None:
    tests = REPOSITORY / "tests" / ("orchestration" if room in DAGSTER_ROOMS else room)
    assert list(tests.rglob("test_*.py")), f"{room} has no tests in {name_of(tests)}"
    assert room in PAGES, (
        f"say in PAGES which page of docs/explanations tells of {room}"
    )
    page = REPOSITORY / "docs/explanations" / f"{PAGES[room]}.md"
    assert page.is_file(), f"{name_of(page)} tells of {room}; write it"
    assert f"`{room}" in page.read_text(), f"{name_of(page)} does not name `{room}`"


def test_every_explanation_is_in_the_contents() -> None:
    contents = (REPOSITORY / "docs/index.md").read_text()
    pages = [p for p in (REPOSITORY / "docs").rglob("*.md") if p.name != "COPYME.md"]
    names = [str(page.relative_to(REPOSITORY / "docs")) for page in pages]
    missing = [n for n in sorted(names) if n != "index.md" and f"({n})" not in contents]
    assert not missing


def test_every_asset_group_has_a_job() -> None:
    from em_platform.definitions import defs

    graph = defs.resolve_asset_graph()
    groups = {graph.get(key).group_name for key in graph.get_all_asset_keys()}
    made = {
        graph.get(key).group_name
        for job in defs.resolve_all_job_defs()
        if not job.name.startswith("__")
        for key in job.asset_layer.executable_asset_keys
    }
    assert groups == made


def test_no_file_is_a_drawer() -> None:
    drawers = [name_of(path) for path in SOURCES if path.name in DRAWERS]
    bases = [
        name_of(path)
        for path in SOURCES
        if path.name == "base.py" and path.parent != PACKAGE / "model"
    ]
    assert not drawers + bases


def test_dagster_files_have_no_future_annotations() -> None:
    wrong = [
        name_of(path)
        for path in dagster_files()
        if "from __future__ import annotations" in path.read_text()
    ]
    assert not wrong


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = [
        f"{name_of(path)}: {word}"
        for path in FILES
        for word in FORBIDDEN_WORDS
        if word.encode() in path.read_bytes()
    ]
    assert not found


def test_no_file_speaks_as_people_talk() -> None:
    texts = {".py", ".md", ".html", ".js", ".sh", ".toml", ".yaml"}
    found = [
        f"{name_of(path)}:{number} {word[0]}"
        for path in FILES
        if path.suffix in texts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in WORDS.finditer(line)
    ]
    assert not found, "write what the trade says: a message, received, blocked"


def test_only_the_command_line_prints() -> None:
    allowed = {PACKAGE / "reference.py"}
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE / "cli" and path not in allowed
        if "print(" in path.read_text()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not found


def test_every_environment_name_in_the_tree_is_a_setting() -> None:
    known = {field.environment_name for field in FIELDS.values()}
    known |= ALIASES.keys() | OTHER_NAMES
    aside = {REPOSITORY / "tests", REPOSITORY / "benchmarks"}
    looked_at = [p for p in FILES if not aside & set(p.parents)]
    found = {
        f"{name_of(path)}: {name}"
        for path in looked_at
        if path.suffix in {".py", ".md", ".yaml", ".sh", ".example", ""}
        for name in re.findall(r"\bEM_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())
        if name not in known and name != "EM_SECTION__FIELD"
    }
    assert not found


def test_files_in_git_are_small() -> None:
    heavy = [name_of(path) for path in FILES if path.stat().st_size > 1_000_000]
    assert not heavy
