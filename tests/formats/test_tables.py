"""Files of tables are described without an image; what is none is one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from em_platform.cli import cli
from em_platform.errors import FormatError
from em_platform.formats import inspect_tables, is_table_file

STAR = "data_optics\n\nloop_\n_rlnA #1\n_rlnB #2\n1 2\n3 4\n\ndata_job\n_rlnJobType 3\n"
PARTICLES = np.zeros(
    5, [("uid", "<u8"), ("blob/path", "S40"), ("alignments3D/pose", "<f4", (3,))]
)


def test_an_mdoc_a_star_file_and_one_of_cryosparc_are_shown(
    tmp_path: Path, shared_data: Path
) -> None:
    """round3 1.1.8: they were refused as images."""
    (tmp_path / "a.star").write_text(STAR)
    with (tmp_path / "p.cs").open("wb") as file:
        np.save(file, PARTICLES)
    mdoc = shared_data / "cryoem/cryocat/TS_017/017.mdoc"
    names = [str(mdoc), str(tmp_path / "a.star"), str(tmp_path / "p.cs")]
    shown = CliRunner().invoke(cli, ["inspect", *names])
    assert shown.exit_code == 0
    for text in (
        *("60 rows of ZValue, TiltAngle", "-52.0064 to 65.9732 degrees", "1.971"),
        *("table optics", "2 rows of rlnA, rlnB", "job rlnJobType"),
        *("5 rows of uid (uint64)", "blob/path (text)"),
    ):
        assert text in shown.output
    shown = CliRunner().invoke(cli, ["inspect", "--json", *names])
    found = [json.loads(line) for line in shown.output.splitlines()]
    assert [each["format"] for each in found] == ["mdoc", "STAR", "cryoSPARC"]
    assert found[0]["tags"]["ImageFile"] == "TS_017.mrc"
    assert found[1]["tags"] == {"job rlnJobType": "3"}
    (particles,) = found[2]["tables"]
    assert particles["columns"][2] == "alignments3D/pose (float32 x 3)"


def test_what_its_name_does_not_hold_is_one_sentence(tmp_path: Path) -> None:
    """round3 1.1.8"""
    cases: dict[str, tuple[bytes, str]] = {
        "bad.star": (b"no star at all\n", "cannot be read as a STAR file .*block"),
        "none.star": (b"data_\n", "it has no table"),
        "empty.star": (b"", "found 0 bytes"),
        "bad.mdoc": (b"PixelSpacing = 2\n", "found no image, expected an mdoc"),
        "zip.cs": (b"PK\3\4 a bomb", "does not begin as an array of numpy"),
    }
    with (tmp_path / "whole.cs").open("wb") as file:
        np.save(file, PARTICLES)
    whole = (tmp_path / "whole.cs").read_bytes()
    cases["cut.cs"] = whole[:-20], "cannot be read as a cryoSPARC file .*mmap"
    with (tmp_path / "objects.cs").open("wb") as file:
        np.save(file, np.array([{}], [("a", "O")]), allow_pickle=True)
    cases["objects.cs"] = (tmp_path / "objects.cs").read_bytes(), "Python objects"
    with (tmp_path / "plain.cs").open("wb") as file:
        np.save(file, np.zeros(3))
    cases["plain.cs"] = (tmp_path / "plain.cs").read_bytes(), "no named columns"
    for name, (content, sentence) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert is_table_file(str(path))
        with pytest.raises(FormatError, match=sentence) as raised:
            inspect_tables(str(path))
        assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(FormatError, match="found the URL of a STAR file"):
        inspect_tables("https://127.0.0.1/a.star")
