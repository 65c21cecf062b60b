from pathlib import Path

import pytest

from em_platform.errors import ConfigError, FormatError
from em_platform.stitching.inputs import names, open_montage
from tests.stitching.inputs.tile_folders import grid, places, write_tiles


@pytest.mark.parametrize(
    "names",
    [
        ["r000c000.tif", "r000c001.tif", "r001c000.tif"],
        ["s_R1-C1_x.tif", "s_R1-C2_x.tif", "s_R2-C1_x.tif"],
        ["Tile_003_007.png", "Tile_003_008.png", "Tile_004_007.png"],
        ["col0075_row0021_cam1.png", "col0076_row0021_cam0.png", "col0075_row0022.png"],
        ["row1_col1.tif", "row1_col2.tif", "row2_col1.tif"],
        ["a-x10-y5.jpg", "a-x11-y5.jpg", "a-x10-y6.jpg"],
        ["y005x010.tiff", "y005x011.tiff", "y006x010.tiff"],
    ],
)
def test_common_names_say_row_and_column(tmp_path: Path, names: list[str]) -> None:
    write_tiles(tmp_path, names)
    montage = open_montage(tmp_path, overlap=0.25)
    assert [places(montage)[n] for n in names] == [(0, 0), (0, 72), (48, 0)]
    assert [grid(montage)[n] for n in names] == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize(
    "pattern", ["b{col}-a{row}*.tif", r"^b(?P<col>\d)-a(?P<row>\d)-"]
)
def test_a_pattern_says_what_names_mean(tmp_path: Path, pattern: str) -> None:
    write_tiles(tmp_path, ["b2-a5-z.tif", "b3-a5-z.tif"])
    montage = open_montage(tmp_path, pattern=pattern, overlap=16)
    assert places(montage) == {"b2-a5-z.tif": (0, 0), "b3-a5-z.tif": (0, 80)}


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("b{row}", "found no row and col"),
        ("b(", "not a regular expression"),
        (
            r"^(?P<row>\d+)*(b|b2|2)*(-|a|5)*$(?P<col>\d)",
            "fits no name in .*, which has 1 image;",
        ),
        (r"(?P<row>b)(?P<col>\d)", "row and col fit what is no number"),
        (r"(?P<row>\d)(?P<col>x)?", "row and col fit what is no number"),
        ("q{row}_{col}.tif", "fits no name in .*, which has 1 image;"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, pattern: str, sentence: str
) -> None:
    write_tiles(tmp_path, ["b2-a5-z.tif"])
    with pytest.raises(ConfigError, match=sentence):
        open_montage(tmp_path, pattern=pattern)


def test_a_name_without_place_fails_and_an_overview_is_left_alone(
    tmp_path: Path,
) -> None:
    write_tiles(tmp_path, ["r0c0.tif", "r0c1.tif", "r0c2.tif", "oops.tif", "map.png"])
    montage = open_montage(tmp_path)
    assert len(montage.tiles) == 3
    assert [f.item for f in montage.failures] == ["oops.tif"]
    assert montage.expected_tiles == 4


def test_what_the_pipeline_made_of_a_tile_is_not_one_more(tmp_path: Path) -> None:
    names = ["a_000_000.tiff", "a_000_001.tiff"]
    write_tiles(tmp_path, [*names, "a_000_000.processed.tiff"])
    montage = open_montage(tmp_path, overlap=0.25)
    assert list(grid(montage)) == names
    assert montage.failures == ()


@pytest.mark.parametrize("mask", ["mask.tif", "r0_c0_mask.tif", "Tile-Mask-2.tif"])
def test_a_mask_beside_the_tiles_is_no_tile_and_no_failure(
    tmp_path: Path, mask: str
) -> None:
    names = ["r0_c0.tif", "r0_c1.tif"]
    write_tiles(tmp_path, [*names, mask])
    montage = open_montage(tmp_path, overlap=0.25)
    assert [tile.tile_id for tile in montage.tiles] == names
    assert montage.failures == ()


def test_a_pattern_without_row_is_refused_with_the_two_words(tmp_path: Path) -> None:
    write_tiles(tmp_path, ["a.tif"])
    with pytest.raises(ConfigError, match=r"expected \{row\} and \{col\} or groups"):
        open_montage(tmp_path, pattern=r"(\d+)")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("places.csv", "r0c0.tif,0,0\nr0c1.tif,90,0\n"),
        ("places.csv", "tile;left;top\nr0c0.tif;0;0\n"),
        ("places.json", '[{"image": "r0c0.tif", "at": [0, 0]}]'),
        ("tiles.csv", "# exported on Monday\n# by hand\n"),
        ("tiles.csv", "   \n \n"),
        ("tiles.tsv", "file\tx_px\n"),
        ("tiles.json", '{"tiles": {}}'),
    ],
)
def test_a_list_that_cannot_be_used_is_not_replaced_by_a_guess(
    tmp_path: Path, name: str, text: str
) -> None:
    write_tiles(tmp_path, ["r0c0.tif", "r0c1.tif"])
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=f"{name}: found no lines with a file and a"):
        open_montage(tmp_path, overlap=0.25)
    # Asked for by a pattern, names are what counts.
    montage = open_montage(tmp_path, overlap=0.25, pattern="r{row}c{col}.tif")
    assert len(montage.tiles) == 2


def test_a_pattern_that_would_be_tried_for_ever_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_MATCHING_S", 0.2)
    write_tiles(tmp_path, ["b2" + "a" * 28 + "!.tif"])
    pattern = r"^b(?P<row>\d)(?P<col>(?:a|a)*)$"
    with pytest.raises(ConfigError, match="found no end of trying"):
        open_montage(tmp_path, pattern=pattern)
