"""Errors that nobody foresaw, and sentences that nobody could print."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from em_platform.cli import main
from em_platform.errors import FormatError
from em_platform.formats import open as opening
from em_platform.formats.open import FileFormat
from em_platform.formats.source import Source
from em_platform.formats.volume import Volume


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """An image, and one whose reader has a fault."""
    for name in ("good.tif", "fault.tif"):
        tifffile.imwrite(tmp_path / name, np.ones((8, 8), np.uint8))

    def divide(source: Source) -> Volume:
        raise ZeroDivisionError(f"{source.length} by 0")

    faulty = FileFormat("X", (".x",), lambda s: s.uri.endswith("fault.tif"), divide)
    monkeypatch.setattr(opening, "FORMATS", (faulty, *opening.FORMATS))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return str(tmp_path / "fault.tif"), str(tmp_path / "good.tif")


def test_a_fault_of_ours_is_one_sentence_that_names_its_traceback(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["convert", files[0], f"{files[0]}.zarr"])
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "this is a fault of em-platform, not of your input" in line
    (log,) = re.findall(r"traceback is in (\S+\.log)", line)
    assert "ZeroDivisionError" in Path(log).read_text()


def test_the_other_files_have_their_json_all_the_same(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", "--json", *files])
    fault, good = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert "a fault of em-platform" in fault["error"]
    assert good["shape"] == [1, 8, 8]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb.tif", "a b.tif"),
        ("a\x1b[31mb.tif", r"a\x1b[31mb.tif"),
        ("a\r\u2028b.tif", "b.tif"),
        ("\udcff.tif", r"\udcff.tif"),
        ("x" * 5000, "x" * 120 + "..." + "x" * 100),
        ("word " * 2000, "word word"),
    ],
)
def test_a_sentence_is_one_line_of_a_length_that_is_read(name: str, shown: str) -> None:
    sentence = str(FormatError(f"{name}: found nothing"))
    assert shown in sentence
    assert len(sentence) < 3100
    assert len(sentence.splitlines()) == 1
    sentence.encode()
