import json
from pathlib import Path
from typing import Any

import cv2
import pytest
import tifffile

from em_platform.errors import ConfigError, DataError, FormatError
from em_platform.stitching.inputs import open_montage
from tests.stitching.inputs.tile_folders import GRAIN, grid, places, write_tiles


def test_a_csv_in_pixels_gives_places_rows_and_columns(tmp_path: Path) -> None:
    write_tiles(tmp_path, ["a.tif", "sub/b.tif", "c.png"])
    (tmp_path / "tiles.csv").write_text(
        "file,x_px,y_px\na.tif,0,0\nsub/b.tif,86.5,-2\nc.png,1,57.25\n"
    )
    montage = open_montage(tmp_path)
    assert places(montage) == {
        "a.tif": (0, 0),
        "sub/b.tif": (-2, 86.5),
        "c.png": (57.25, 1),
    }
    assert grid(montage) == {"a.tif": (0, 0), "sub/b.tif": (0, 1), "c.png": (1, 0)}
    assert montage.pixel_nm is None
    assert montage.expected_tiles == 3
    assert montage.failures == ()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_in_nm_needs_the_pixel_size(tmp_path: Path, separator: str) -> None:
    write_tiles(tmp_path, ["a.tif", "b.tif"])
    lines = ["# stage", "File;X_nm;Y_nm", "a.tif;1000;200", "b.tif;1344;200"]
    path = tmp_path / "stage.csv"
    path.write_text("\r\n".join(lines).replace(";", separator))
    with pytest.raises(
        ConfigError, match=r"places in nm and no pixel size.*--pixel-nm"
    ):
        open_montage(path)
    montage = open_montage(path, pixel_nm=4)
    assert places(montage) == {"a.tif": (50, 250), "b.tif": (50, 336)}
    assert montage.pixel_nm == 4
    assert montage.tiles[0].stage_x_nm == 1000
    assert montage == open_montage(tmp_path, pixel_nm=4)


@pytest.mark.parametrize("whole", [False, True])
def test_a_json_list_is_the_same_as_a_csv(tmp_path: Path, whole: bool) -> None:
    write_tiles(tmp_path, ["a.tif", "b.tif"])
    rows = [
        {"file": "a.tif", "x_nm": 0, "y_nm": 0, "pixel_nm": 2.0, "residual_px": 0.1},
        {"file": "b.tif", "x_nm": 172, "y_nm": 4, "pixel_nm": 2.0, "row": 7, "col": 3},
    ]
    content: Any = {"tiles": rows, "edges": []} if whole else rows
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert places(open_montage(tmp_path)) == {"a.tif": (0, 0), "b.tif": (2, 86)}


def test_rows_and_columns_of_the_list_are_kept_when_all_tiles_have_them(
    tmp_path: Path,
) -> None:
    write_tiles(tmp_path, ["a.tif", "b.tif"])
    (tmp_path / "tiles.csv").write_text(
        "file,x_px,y_px,row,column,mask\na.tif,0,0,5,6,m.png\nb.tif,90,0,5,7,\n"
    )
    montage = open_montage(tmp_path)
    assert grid(montage) == {"a.tif": (5, 6), "b.tif": (5, 7)}
    assert montage.tiles[0].mask_uri == str(tmp_path / "m.png")
    assert montage.tiles[1].mask_uri is None


def test_json_beside_each_image_and_other_lists_do_not_disturb(tmp_path: Path) -> None:
    write_tiles(tmp_path, ["t_000_000.tif", "t_000_001.tif"])
    (tmp_path / "t_000_000.json").write_text('{"camera": 1}')
    (tmp_path / "notes.csv").write_text("who,what\nme,this\n")
    assert len(open_montage(tmp_path).tiles) == 2


def test_an_empty_list_is_not_passed_over_for_the_names(tmp_path: Path) -> None:
    write_tiles(tmp_path, ["t_000_000.tif", "t_000_001.tif"])
    (tmp_path / "tiles.csv").write_text("")
    with pytest.raises(FormatError, match=r"tiles\.csv: found 0 bytes"):
        open_montage(tmp_path)


def test_a_montage_of_ours_is_opened_again(tmp_path: Path) -> None:
    write_tiles(tmp_path, ["r0c0.tif", "r0c1.tif"])
    montage = open_montage(tmp_path, pixel_nm=4)
    path = tmp_path / "montage.json"
    path.write_text(montage.model_dump_json())
    assert open_montage(path).tiles == montage.tiles
    assert open_montage(path, name="again").acquisition_id == "again"


def test_a_montage_that_is_opened_again_keeps_its_plan(tmp_path: Path) -> None:
    write_tiles(tmp_path, ["a.tif", "b.tif"])
    (tmp_path / "tiles.csv").write_text("file,x_px,y_px\na.tif,0,0\nb.tif,86,0\n")
    planned = open_montage(tmp_path).model_copy(update={"expected_tiles": 6})
    path = tmp_path / "montage.json"
    path.write_text(planned.model_dump_json())
    assert open_montage(path).expected_tiles == 6


def test_what_a_report_excluded_is_missing_when_it_is_stitched_again(
    tmp_path: Path,
) -> None:
    write_tiles(tmp_path, ["a.tif", "b.tif"])
    rows = [{"file": "a.tif", "x_px": 0, "y_px": 0}]
    rows += [{"file": "b.tif", "x_px": 86, "y_px": 0}]
    lost = {"item": "c.tif", "error": "FormatError", "sentence": "c.tif: all black"}
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"tiles": rows, "failures": [lost]}))
    montage = open_montage(path)
    assert [failure.sentence for failure in montage.failures] == ["c.tif: all black"]
    assert montage.expected_tiles == 3
    path.write_text(json.dumps({"tiles": rows, "failures": "none"}))
    assert open_montage(path).failures == ()


def test_the_acquisition_id_is_safe_stable_and_unlike_others(tmp_path: Path) -> None:
    ids = set()
    for folder in ("A b/ü", "A b/x", "c/x"):
        write_tiles(tmp_path / folder, ["r0c0.tif"])
        found = open_montage(tmp_path / folder).acquisition_id
        assert found == open_montage(f"{tmp_path / folder}/").acquisition_id
        ids.add(found)
    assert len(ids) == 3
    write_tiles(tmp_path / "run7", ["a.tif"])
    (tmp_path / "run7/tiles.csv").write_text("file,x_px,y_px\na.tif,0,0\n")
    assert open_montage(tmp_path / "run7").acquisition_id.startswith("run7-")


def test_a_folder_behind_a_url_is_opened() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    _, png = cv2.imencode(".png", GRAIN)
    memory.pipe_file("/montage1/a.png", png.tobytes())
    memory.pipe_file("/montage1/b.png", png.tobytes())
    memory.pipe_file("/montage1/tiles.csv", b"file,x_px,y_px\na.png,0,0\nb.png,80,0\n")
    montage = open_montage("memory://montage1")
    assert montage.tiles[1].uri == "memory://montage1/b.png"
    assert montage == open_montage("memory://montage1/tiles.csv")


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        (
            "x.docx",
            "PK",
            FormatError,
            r"x\.docx is not a list of tiles, expected a CSV",
        ),
        ("x.json", "{", FormatError, r"x\.json: not valid JSON"),
        ("x.json", '{"a": 1}', FormatError, r"x\.json is not a list of tiles"),
        ("x.csv", "file,x,y\na,1,2\n", FormatError, "expected columns file and x_px"),
        ("x.csv", "", FormatError, "found 0 bytes"),
        ("x.csv", "file,x_px,y_px\n", FormatError, "found no lines"),
        ("x.csv", "file,x_px,y_px\na,1,2\n", DataError, "no tile that can be used"),
        ("x.mdoc", "rubbish", FormatError, "cannot be read as an mdoc"),
        ("x.mrc", "rubbish", FormatError, r"a stack without x\.mrc\.mdoc"),
        (None, "", ConfigError, "found nothing at"),
    ],
)
def test_what_is_no_list_is_one_sentence(
    tmp_path: Path, name: str | None, content: str, error: type, sentence: str
) -> None:
    if name is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=sentence):
        open_montage(tmp_path / (name or "gone"))


FEI = b"[User]\nDate=1/1/2020\n[Beam]\nBeam=EBeam\n"
FEI_TAG = (34682, 2, len(FEI) + 1, FEI + b"\0", True)


@pytest.mark.parametrize(
    ("how", "column", "modality"),
    [
        ({"metadata": None}, "", None),
        ({"metadata": None, "extratags": [FEI_TAG]}, "", "SEM"),
        ({"metadata": None, "extratags": [FEI_TAG]}, "SBEM", "SBF-SEM"),
        ({"ome": True, "metadata": {"Channel": {"Fluor": "DAPI"}}}, "", "light"),
    ],
)
def test_the_modality_is_that_of_the_list_else_of_the_tiles(
    tmp_path: Path, how: dict[str, Any], column: str, modality: str | None
) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", GRAIN, **how)
    line = f"file,x_px,y_px,modality\na.ome.tif,0,0,{column}\n"
    (tmp_path / "tiles.csv").write_text(line)
    assert open_montage(tmp_path).modality == modality


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="found no images and no list of places, "):
        open_montage(tmp_path)


def test_images_in_folders_below_are_named(tmp_path: Path) -> None:
    """round3 1.2.6: "found 0 images" of a folder of sections."""
    for name in ("section1", "section2", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("a.txt" if name == "notes" else "r0c0.tif")).touch()
    below = "images in section1, section2: name that folder"
    for pattern in (None, "r{row}c{col}.tif"):
        with pytest.raises((FormatError, ConfigError), match=below):
            open_montage(tmp_path, pattern=pattern)
