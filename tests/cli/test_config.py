import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from em_platform.cli import cli
from em_platform.config import FIELDS


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(*arguments: str) -> dict[str, tuple[object, str]]:
    result = CliRunner().invoke(cli, [*arguments, "config", "--json"])
    assert result.exit_code == 0, result.output
    return {r["setting"]: (r["value"], r["layer"]) for r in json.loads(result.output)}


def test_every_setting_is_shown_with_its_value_and_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EM_DASK__WORKERS", "5")
    shown = rows()
    assert list(shown) == [field.name for field in FIELDS.values()]
    assert shown["dask.workers"] == (5, "environment")
    assert shown["web.port"] == (3000, "default")


def test_the_table_has_one_line_a_setting() -> None:
    lines = CliRunner().invoke(cli, ["config"]).output.splitlines()
    assert len(lines) == len(FIELDS)
    assert any(line.split() == ["web.port", "3000", "default"] for line in lines)


def test_a_setting_of_the_command_line_reaches_children_under_its_own_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("EM_WEB__PORT", "EM_COMMAND_LINE"):
        monkeypatch.setenv(name, "")  # so that what --set writes is undone
    assert rows("--set", "web.port=3456")["web.port"] == (3456, "command line")
    assert rows()["web.port"] == (3456, "command line")


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_BROKER__USERNAME", "em")
    monkeypatch.setenv("EM_BROKER__PASSWORD", "hunter2")
    monkeypatch.setenv(
        "EM_ACQUISITION__RECORDER_URL", "postgresql+psycopg://em:hunter2@db/em"
    )
    shown = rows()
    assert "hunter2" not in json.dumps(shown)
    url = "postgresql+psycopg://em:***@db/em"
    assert shown["acquisition.recorder_url"] == (url, "environment")
