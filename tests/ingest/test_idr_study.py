"""What IDR's server and its studies say is read as it was recorded."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from em_platform.errors import FormatError
from em_platform.ingest.idr_study import (
    KNOWN,
    code_of,
    public_path,
    read_annotations,
    read_file_paths,
    read_study,
    voxel_of_name,
)
from em_platform.ingest.omero import image_of

NAME = "Figure_S3B_FIB-SEM_U2OS_20x20x20nm_xy.tif"


def recorded(shared_data: Path, name: str) -> str:
    return (shared_data / f"api/idr/idr0086-{name}").read_text(encoding="utf-8")


def stated(**changes: Any) -> dict[str, Any]:
    """An image in OMERO's words; what is None is left out, as OMERO does."""
    pixels = {
        **{"SizeX": 4, "SizeY": 3, "SizeZ": 2, "SizeC": 1, "SizeT": 1},
        "Type": {"value": "uint8"},
        **{key: value for key, value in changes.items() if key[:2] in ("Si", "Ph")},
    }
    others = {key: value for key, value in changes.items() if key not in pixels}
    whole = {"Name": "a.tif", "Pixels": pixels, **others}
    return {key: value for key, value in whole.items() if value is not None}


def length(value: float, unit: str) -> dict[str, Any]:
    return {"Value": value, "Unit": unit, "@type": "TBD#LengthI"}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, None),
        ({"PhysicalSizeX": length(0.02, "MICROMETER")}, (0.0, 0.0, 20.0)),
        ({"PhysicalSizeZ": length(8, "NANOMETER")}, (8.0, 0.0, 0.0)),
        ({"PhysicalSizeY": length(40, "ANGSTROM")}, (0.0, 4.0, 0.0)),
        ({"PhysicalSizeX": length(1, "PIXEL")}, None),
        ({"PhysicalSizeX": length(-1, "NANOMETER")}, None),
    ],
)
def test_lengths_have_units(sizes: Any, expected: Any) -> None:
    assert image_of(stated(**sizes), "1").voxel_nm == expected


def test_the_day_of_acquisition_is_reported_where_it_is_known() -> None:
    image = image_of(stated(AcquisitionDate=1235730332000), "1")
    assert image.acquired == datetime.date(2009, 2, 27)
    assert image_of(stated(), "1").acquired is None
    # round3 4.8: a fault of em-platform
    assert image_of(stated(AcquisitionDate=1e30), "1").acquired is None


@pytest.mark.parametrize("answer", [None, {}, stated(Name=None), stated(SizeZ=None)])
def test_an_answer_that_is_no_image_is_reported(answer: Any) -> None:
    with pytest.raises(FormatError, match="is no image with name, size and type"):
        image_of(answer, "1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (NAME, (20.0, 20.0, 20.0)),
        ("Movie_S5_FIB-SEM_HeLa_G1_4x4x3nm_xz.tif", (3.0, 4.0, 4.0)),
        ("a_4.5X4.5x10nm.tif", (10.0, 4.5, 4.5)),
        ("a_1024x768.tif", None),
    ],
)
def test_a_voxel_size_in_a_name_is_read(name: str, expected: Any) -> None:
    assert voxel_of_name(name) == expected


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        ("idr0086-miron-micrographs/experimentD", "idr0086D"),
        ("idr0062-blin-nuclearsegmentation/experimentA", "idr0062A"),
        ("idr0003-breker-plasticity/screenA", "idr0003A"),
        ("my project", ""),
    ],
)
def test_a_project_names_study_and_experiment(project: str, expected: str) -> None:
    assert code_of(project) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/uod/idr/filesets/idr0086-m/a.tif", "idr0086-m/a.tif"),
        ("uod/idr/filesets/idr0086-m/a.tif", "idr0086-m/a.tif"),
        ("/uod/idr/metadata/a.txt", ""),
    ],
)
def test_the_public_path_follows_from_the_imported_one(
    path: str, expected: str
) -> None:
    assert public_path(path) == expected


def test_the_recorded_study_is_read(shared_data: Path) -> None:
    study = read_study(recorded(shared_data, "study.txt"))
    known = KNOWN["idr0086"]
    assert study.accession == known.accession
    assert study.title == known.title
    assert study.license == known.license
    assert study.doi == known.doi
    assert study.paper_doi == known.paper_doi
    assert study.citation.split(" (2020)")[0].rstrip(".") in known.citation


def test_the_recorded_list_of_files_is_read(shared_data: Path) -> None:
    paths = read_file_paths(recorded(shared_data, "experimentD-filePaths.tsv"))
    (folder,) = KNOWN["idr0086"].folders
    assert len(paths) == 11
    assert paths[NAME] == f"{folder}/{NAME}"
    assert {path.rpartition("/")[0] for path in paths.values()} == {folder}


def test_the_recorded_annotations_are_read(shared_data: Path) -> None:
    images = read_annotations(recorded(shared_data, "experimentD-annotation.csv"))
    assert len(images) == 11
    assert images[NAME]["Organism"] == KNOWN["idr0086"].organism
    assert images[NAME]["Cell Line"] == "U2OS"
    assert images[NAME]["Cell Cycle Stage"] == "G1"
    assert images[NAME]["Dataset Name"] == "U2OS_chromatin"


def test_the_recorded_import_names_the_list_of_files(shared_data: Path) -> None:
    import yaml

    bulk = yaml.safe_load(recorded(shared_data, "experimentD-bulk.yml"))
    assert bulk["path"] == "idr0086-experimentD-filePaths.tsv"
    names = [column["target"] if isinstance(column, dict) else column
             for column in bulk["columns"]]  # fmt: skip
    assert names == ["target", "path"]


def test_the_recorded_tags_agree_with_name_and_type(shared_data: Path) -> None:
    name = NAME.replace(".tif", "_tif_metadata.json")
    tags = json.loads((shared_data / "api/idr" / name).read_text())
    page = tags["pages"][0]
    assert 1000 / page["resolution"][0] == pytest.approx(voxel_of_name(NAME)[2])  # type: ignore[index]
    assert page["dtype"] == "uint8"
    assert (tags["global_info"]["pages_count"], *page["shape"]) == (184, 775, 1121)


@pytest.mark.parametrize(
    ("read", "text", "found"),
    [
        (read_study, "Study Title\tx", "names no IDR Study Accession"),
        (read_annotations, "a,b\n1,2\n", "no column 'Image Name'"),
        (read_file_paths, "Dataset:name:a\t/somewhere/else.tif", "line 1 of a list"),
    ],
)
def test_what_is_not_of_a_study_is_reported(read: Any, text: str, found: str) -> None:
    with pytest.raises(FormatError, match=found):
        read(text)
