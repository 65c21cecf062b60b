"""`em-platform inspect` as a person and a program see it."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from em_platform.cli import cli, main
from em_platform.formats import extent_nm, inspect
from em_platform.standins import image_files
from em_platform.standins.world import running_world


@pytest.fixture
def section(tmp_path: Path) -> str:
    """One section of 30 x 40 pixels of 8 nm, 50 nm thick."""
    tags = {
        "SBFSEM": {"Record": {"Slice thickness": 50.0}},
        "Microscope Info": {"Voltage": 1900.0, "Name": "FEI Quanta"},
    }
    image = np.zeros((30, 40), np.uint8)
    path = tmp_path / "section.dm3"
    image_files.write_dm(path, image, pixel_um=0.008, name="section 1", tags=tags)
    return str(path)


@pytest.fixture
def colours(tmp_path: Path) -> str:
    path = tmp_path / "colours.tif"
    tifffile.imwrite(path, np.zeros((30, 40, 3), np.uint8), photometric="rgb")
    return str(path)


def test_a_person_reads_shape_type_lengths_and_tags(section: str) -> None:
    result = CliRunner().invoke(cli, ["inspect", section])
    assert result.exit_code == 0
    for text in (
        "DM3",
        "1 x 30 x 40 voxels (z, y, x)",
        "uint8",
        "50 x 8 x 8 nm (z, y, x)",
        "50 nm x 240 nm x 320 nm",
        "FEI Quanta",
        "1900",
    ):
        assert text in result.output


def test_a_program_reads_json(section: str) -> None:
    result = CliRunner().invoke(cli, ["inspect", "--json", section])
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert found["shape"] == [1, 30, 40]
    assert found["dtype"] == "uint8"
    assert found["voxel_size_nm"] == [50.0, 8.0, 8.0]
    assert found["format"] == "DM3"
    assert found["size_bytes"] == Path(section).stat().st_size
    assert found["pixel_bytes"] == 1200
    assert found["tags"]["voltage_v"] == 1900


def test_what_cannot_be_read_ends_with_one_sentence_and_status_1(
    colours: str,
) -> None:
    result = CliRunner().invoke(cli, ["inspect", colours])
    assert result.exit_code == 1
    assert "found 3 samples a pixel (colours), 40 x 30 px" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_sentence_is_json_where_json_was_asked_for(colours: str) -> None:
    result = CliRunner().invoke(cli, ["inspect", "--json", colours])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert "found 3 samples a pixel" in found["error"]
    assert (found["kind"], found["uri"]) == ("FormatError", colours)


def test_of_several_files_each_is_reported_and_one_failure_is_status_1(
    section: str, colours: str
) -> None:
    result = CliRunner().invoke(cli, ["inspect", "--json", section, colours, section])
    assert result.exit_code == 1
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in each for each in found] == [False, True, False]


def test_without_a_length_the_person_is_reported_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "[odd] name.tif"
    tifffile.imwrite(path, np.zeros((30, 40), np.uint16), metadata=None)
    with pytest.raises(SystemExit) as caught:
        main(["inspect", str(path)])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert "not stated" in output and "[odd] name.tif" in output


def test_edges_of_the_whole_are_lengths_times_counts(section: str) -> None:
    assert extent_nm(inspect(section)) == (50.0, 240.0, 320.0)


def test_arrays_in_a_bucket_are_inspected_where_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    level = "jrc_mus-nacc-2/jrc_mus-nacc-2.zarr/recon-2/em/fibsem-int16/s2"
    uri = f"s3://janelia-cosem-datasets/{level}"
    with running_world(tmp_path, sources=("openorganelle",)) as world:
        endpoint = world.settings["ingest.openorganelle.endpoint_url"]
        command = ["inspect", "--json", uri]
        given = CliRunner().invoke(cli, [*command, "--endpoint", endpoint])
        monkeypatch.setenv("EM_INGEST__OPENORGANELLE__ENDPOINT_URL", endpoint)
        known = CliRunner().invoke(cli, command)
    truth = json.loads(given.output)
    assert (truth["shape"], truth["dtype"]) == ([17, 39, 40], "int16")
    assert truth["voxel_size_nm"] == [11.84, 16.0, 16.0]
    assert known.output == given.output
