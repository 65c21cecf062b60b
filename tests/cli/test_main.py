import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from em_platform.cli import COMMANDS, cli


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


def test_help_comes_without_loading_a_command() -> None:
    code = (
        "import sys; from em_platform.cli import cli;"
        "from click.testing import CliRunner; CliRunner().invoke(cli, ['--help']);"
        "sys.exit(len({'dagster', 'dask', 'numba', 'zarr'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
