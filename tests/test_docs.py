"""The reference pages say everything, and say what the code says now."""

import inspect
import re
from functools import cache
from pathlib import Path

import click
import pytest

from em_platform import errors, model
from em_platform.cli import COMMANDS, cli
from em_platform.cli.docs import PAGES, used_topics
from em_platform.config import FIELDS
from em_platform.config.settings import ALIASES

REPOSITORY = Path(__file__).parent.parent


@cache
def written(name: str) -> str:
    return (REPOSITORY / name).read_text()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_says_now(name: str) -> None:
    assert written(name) == PAGES[name](), "stale: run 'make docs'"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_in_the_reference(name: str) -> None:
    page = written("docs/reference/cli.md")
    section = page.split(f"## `em-platform {name}", 1)[1].split("\n## `em-platform", 1)[
        0
    ]
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = [
        p for p in command.params if isinstance(p, click.Option) and not p.hidden
    ]
    missing = [o.opts for o in options if not all(f"`{n}`" in section for n in o.opts)]
    assert not missing


def test_every_asset_check_job_sensor_and_schedule_is_in_the_reference() -> None:
    from em_platform.definitions import defs

    graph = defs.resolve_asset_graph()
    names = {key.to_user_string() for key in graph.get_all_asset_keys()}
    names |= {key.name for key in graph.asset_check_keys}
    names |= {job.name for job in defs.resolve_all_job_defs() if job.name[0] != "_"}
    names |= {sensor.name for sensor in defs.sensors or ()}
    names |= {schedule.name for schedule in defs.schedules or ()}
    page = written("docs/reference/assets.md")
    assert not [name for name in sorted(names) if f"`{name}`" not in page]


def test_every_setting_and_alias_is_in_the_reference() -> None:
    page = written("docs/reference/config.md")
    names = [name for f in FIELDS.values() for name in (f.name, f.environment_name)]
    assert not [name for name in [*names, *ALIASES] if f"`{name}`" not in page]


def test_every_topic_is_in_the_reference() -> None:
    page = written("docs/reference/topics.md")
    topics = used_topics()
    assert {"tile.raw", "montage.complete", "camera.command"} <= topics.keys()
    assert not [topic for topic in topics if f"## `{topic}`" not in page]


def test_every_error_is_in_the_reference() -> None:
    page = written("docs/reference/errors.md")
    names = [name for name, kind in vars(errors).items() if inspect.isclass(kind)]
    assert not [name for name in names if f"`{name}`" not in page]


def test_the_glossary_has_every_main_type_of_the_model() -> None:
    page = written("docs/reference/glossary.md")
    types = [n for n in model.__all__ if inspect.isclass(getattr(model, n))]
    assert len(types) > 20
    assert not [n for n in types if n != "Model" and f"`{n}`" not in page]


def pages() -> list[Path]:
    names = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
    top = [REPOSITORY / name for name in names]
    return sorted(top + list((REPOSITORY / "docs").rglob("*.md")))


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_command_that_a_page_shows_exists(page: Path) -> None:
    shown = re.findall(
        r"^\$? ?(?:\.venv/bin/)?em-platform ([a-z]+)", page.read_text(), re.M
    )
    assert not [name for name in shown if name not in COMMANDS]


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_make_word_that_a_page_shows_exists(page: Path) -> None:
    words = re.findall(r"^([a-z]+):", written("Makefile"), re.M)
    shown = re.findall(r"`make ([a-z]+)", page.read_text())
    assert not [word for word in shown if word not in words]


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)", page.read_text())
    assert not [n for n in named if not (REPOSITORY / "tests" / n).exists()]


def test_every_host_and_secret_that_can_be_set_is_on_the_page_about_security() -> None:
    page = written("docs/explanations/security.md")
    names = [f.name for f in FIELDS.values() if f.is_secret or f.path[-1] == "host"]
    assert not [name for name in names if f"`{name}`" not in page]


WALK = re.compile(r"^\d+\. `([^`]+\.py)`, `(\w+)`: \S.*\.$", re.MULTILINE)


def test_the_walk_of_a_tile_names_what_is_there() -> None:
    page = written("docs/explanations/a-tile.md")
    steps = WALK.findall(page)
    assert len(steps) == len(re.findall(r"^\d+\. ", page, re.MULTILINE))
    assert 10 < len(steps) <= 25
    for path, name in steps:
        code = written(f"em_platform/{path}")
        assert re.search(rf"^(?:def|class) {name}\b", code, re.MULTILINE), (path, name)
