"""The stage of the how-to page is one file and one line: the command line has it."""

import json
from collections.abc import Iterator
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from em_platform.cli import main
from em_platform.cli.cryoem import command
from em_platform.cryoem import stages
from tests.docs.page_runner import blocks_of


@pytest.fixture
def invert(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Put the page's file and line where it says."""
    page = repository / "docs/how-to/add-a-stage.md"
    file, line = (b.text for b in blocks_of(page) if b.language == "python")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/invert.py").write_text(file)
    monkeypatch.setattr(
        stages, "__path__", [*stages.__path__, str(tmp_path / "stages")]
    )
    monkeypatch.setattr(stages, "STAGES", stages.STAGES)
    exec(line, {"STAGES": stages.STAGES})
    yield
    del stages.STAGES["invert"]
    command.commands.pop("invert", None)


@pytest.fixture
def micrograph(tmp_path: Path) -> Path:
    path = tmp_path / "micrograph.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.full((4, 6), 3, np.int16))
        file.voxel_size = 1.5
    return path


def status_of(*arguments: str | Path) -> int:
    try:
        main([*map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.usefixtures("invert")
def test_the_stage_of_the_page(
    tmp_path: Path, micrograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("cryoem", "invert", micrograph, "--around", "10")
    asked += ("--output", tmp_path / "out", "--json")
    assert status_of(*asked) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("program").startswith("em-platform ")
    assert shown == {"image": "inverted.mrc", "mean": 17}
    with mrcfile.open(tmp_path / "out/inverted.mrc") as file:
        assert (file.data == 17).all()
        assert file.voxel_size.x == 1.5  # of the header
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert {*before} == {"inverted.mrc", "result.json", "em_platform.json"}
    assert status_of(*asked) == 0
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}


@pytest.mark.usefixtures("invert")
def test_of_several_files_each_has_a_folder_and_one_that_fails_stops_no_other(
    tmp_path: Path, micrograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mrc"
    broken.write_bytes(micrograph.read_bytes()[:-10])
    out = tmp_path / "out"
    asked = ("cryoem", "invert", broken, micrograph, "--output", out, "--json")
    assert status_of(*asked) == 1
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1
    assert "broken.mrc: truncated MRC, found 1062 bytes, expected 1072" in shown.err
    assert [path.name for path in out.iterdir()] == ["micrograph"]


@pytest.mark.usefixtures("invert")
def test_wrong_calls_are_one_sentence_and_write_nothing(
    tmp_path: Path, micrograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mrcfile.mmap(micrograph, mode="r+") as file:
        file.voxel_size = 0
    out = tmp_path / "out"

    def sentence(*arguments: str | Path) -> str:
        assert status_of("cryoem", "invert", *arguments) == 1
        return capsys.readouterr().err.removeprefix("em-platform: ").strip()

    assert sentence(micrograph, "--output", out) == (
        f"{micrograph}: its header states no pixel size, --pixel-size-a was not given "
        "either; give --pixel-size-a"
    )
    given = ("--pixel-size-a", "-1", "--output", out)
    assert "--pixel-size-a: found -1, expected more than 0;" in sentence(
        micrograph, *given
    )
    assert "no INPUT was given" in sentence("--output", out)
    assert not out.exists()
    right = ("--pixel-size-a", "2", "--output", out)
    assert status_of("cryoem", "invert", micrograph, *right) == 0
    other = micrograph.rename(tmp_path / "other.mrc")
    assert "holds the result of" in sentence(other, *right)
    (out / "notes.txt").write_text("mine")
    assert "was changed (notes.txt)" in sentence(other, *right, "--overwrite")
    assert "the input" in sentence(other, "--pixel-size-a", "2", "--output", tmp_path)
