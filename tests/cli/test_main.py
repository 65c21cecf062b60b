import io
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from em_platform.cli import COMMANDS, _accept_common_options, cli
from em_platform.cli.console_output import ConsoleOutput, verbosity


def em_platform(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "em_platform", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_help_lists_every_command_with_its_line() -> None:
    text = " ".join(CliRunner().invoke(cli, ["--help"]).output.split())
    for name, line in COMMANDS.items():
        assert f"{name} {line}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_each_option(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None and command.help
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{name} {parameter.name} has no help"  # type: ignore[attr-defined]


def test_a_platform_error_is_one_sentence_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("nonsense: 1")
    result = em_platform("config", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == (
        "em-platform: YAML config.yaml: unknown setting nonsense; "
        "'em-platform config' lists those that exist\n"
    )


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("web.port", "command line: --set web.port: no '=' found"),
        ("web.prot=1", "command line: unknown setting web.prot; did you mean web.port"),
        ("web.port=x", "command line: web.port = 'x': Input should be a valid integer"),
    ],
)
def test_a_wrong_assignment_names_the_command_line(
    tmp_path: Path, assignment: str, sentence: str
) -> None:
    result = em_platform("--set", assignment, "config", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"em-platform: {sentence}")


@pytest.mark.parametrize("after", [False, True])
def test_settings_stand_before_a_command_or_after_it(
    tmp_path: Path, after: bool
) -> None:
    (tmp_path / "mine.yaml").write_text("web: {port: 4001}")
    common = ["--config", "mine.yaml", "--profile", "sim", "--set", "dask.workers=7"]
    arguments = ["config", "--json", *common] if after else [*common, "config"]
    output = em_platform(*arguments, cwd=tmp_path).stdout
    for found in ("4001", "mine.yaml", "7", "command line", "profile sim"):
        assert found in output


def test_settings_stand_after_the_command_of_a_group_too(tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    result = em_platform(
        "catalog", "list", "--set", "storage.root=held", "-q", cwd=tmp_path
    )
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize(
    ("options", "level"), [([], 0), (["-q"], -1), (["-v"], 1), (["-vv"], 2)]
)
def test_verbosity_is_that_of_the_option(options: list[str], level: int) -> None:
    seen = []

    @click.command()
    def command() -> None:
        seen.append(verbosity())

    _accept_common_options(command)
    CliRunner().invoke(command, options)
    assert seen == [level]


def test_a_quiet_console_prints_results_only() -> None:
    console = Console(record=True, width=80, file=io.StringIO())
    output = ConsoleOutput(console, is_quiet=True)
    output.line("starting")
    output.result("16 tiles")
    text = console.export_text()
    assert "16 tiles" in text and "starting" not in text


def test_completion_knows_the_commands(tmp_path: Path) -> None:
    variables = {
        "_EM_PLATFORM_COMPLETE": "bash_complete",
        "COMP_WORDS": "em-platform st",
        "COMP_CWORD": "1",
    }
    result = subprocess.run(
        [Path(sys.executable).parent / "em-platform"],
        env={**os.environ, **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == ["plain,stitch", "plain,standins"]


def test_help_comes_without_loading_a_command() -> None:
    code = (
        "import sys; from em_platform.cli import cli;"
        "from click.testing import CliRunner; CliRunner().invoke(cli, ['--help']);"
        "sys.exit(len({'dagster', 'dask', 'numba', 'zarr'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
