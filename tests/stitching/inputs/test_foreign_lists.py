import gzip
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.errors import ConfigError, FormatError
from em_platform.formats import write_tiff
from em_platform.stitching.inputs import open_montage
from tests.stitching.inputs.tile_folders import GRAIN, places, write_tiles


def metafile(angle_deg: float) -> list[Any]:
    angle = math.radians(angle_deg)
    data = []
    for number, (row, column) in enumerate([(0, 0), (0, 1), (1, 1), (1, 0)]):
        big_x, big_y = column * 86 * 4.0, row * 57 * 4.0
        stage = [
            -1258147 + big_x * math.cos(angle) - big_y * math.sin(angle),
            -484354 + big_x * math.sin(angle) + big_y * math.cos(angle),
        ]
        seen = {"stage_pos": stage, "raster_pos": [column, row], "angle": angle_deg}
        data.append({"img_path": f"D:\\out\\{number}.tif", "img_meta": seen})
    highmag = {"nm_per_pix": 4.0, "angle": angle_deg}
    about = {
        "temca_id": "temca4",
        "roi_creation_time": "20190314112300",
        "calibration": {"highmag": highmag},
    }
    return [{"metadata": about}, {"data": data}]


@pytest.mark.parametrize("angle_deg", [0.0, 185.0, 181.4])
def test_an_allen_metafile_is_turned_by_its_angle(
    tmp_path: Path, angle_deg: float
) -> None:
    write_tiles(tmp_path, [f"{n}.tif" for n in range(4)])
    (tmp_path / "_metadata_1.json").write_text(json.dumps(metafile(angle_deg)))
    montage = open_montage(tmp_path)
    expected = {"0.tif": (0, 0), "1.tif": (0, 86), "2.tif": (57, 86), "3.tif": (57, 0)}
    for tile, place in places(montage).items():
        assert place == pytest.approx(expected[tile], abs=1e-6)
    assert montage.tiles[2].row == 1
    assert montage.microscope == "temca4"
    assert montage.pixel_nm == 4.0
    assert montage.started_at is not None
    assert montage.started_at.year == 2019


def test_a_real_allen_metafile_lies_on_its_raster(
    shared_data: Path, tmp_path: Path
) -> None:
    (source,) = (shared_data / "allen_acquisition/lens").glob("_metadata*.json")
    content = json.loads(source.read_text())
    names = [entry["img_path"] for entry in content[1]["data"]]
    for name in names:
        write_tiff(tmp_path / name, np.zeros((384, 384), np.uint8))
    (tmp_path / source.name).write_text(source.read_text())
    montage = open_montage(tmp_path)
    assert len(montage.tiles) == 9
    for tile in montage.tiles:
        expected = 1536 * tile.row, 1536 * tile.column
        assert (tile.y_px, tile.x_px) == pytest.approx(expected, abs=12)


def tile_spec(name: str, x: float, y: float, **more: Any) -> dict[str, Any]:
    url = f"file:/gone/{name}"
    affine = {
        "className": "mpicbg.trakem2.transform.AffineModel2D",
        "dataString": f"0.5 0 0 0.5 {x} {y}",
    }
    bend = {"className": "mpicbg.trakem2.transform.NonLinearCoordinateTransform"}
    levels = {
        "0": {"imageUrl": url, "maskUrl": "file:/gone/mask.png"},
        "1": {"imageUrl": url + "_level_1_mipmap.png"},
    }
    return {
        "tileId": name,
        "width": 192.0,
        "height": 128.0,
        "mipmapLevels": levels,
        "transforms": {"type": "list", "specList": [bend, affine]},
        **more,
    }


def test_tile_specs_find_files_by_base_name_and_true_level(tmp_path: Path) -> None:
    write_tiles(tmp_path, ["a.png", "b.png_level_1_mipmap.png", "mask.tif"])
    specs = [tile_spec("a.png", 10, 0), tile_spec("b.png", 96, 4)]
    (tmp_path / "specs.json").write_text(json.dumps(specs))
    montage = open_montage(tmp_path)
    # Half of level-0 pixels, and freed of the scale 0.5 of both transforms.
    assert places(montage) == {"a.png": (0, 10), "b.png_level_1_mipmap.png": (4, 96)}
    assert montage.tiles[0].mask_uri == str(tmp_path / "mask.tif")
    assert montage.tiles[1].mask_uri is None
    with pytest.raises(FormatError, match=r"level \[1.*level 0 was asked for"):
        open_montage(tmp_path, level=0)


def test_resolved_tiles_of_render_resolve_references(tmp_path: Path) -> None:
    write_tiles(tmp_path, ["a.png", "b.png"])
    specs = {}
    for name, x in (("a.png", 0), ("b.png", 100)):
        spec = tile_spec(name, 0, 0)
        del spec["width"]
        rigid = {
            "className": "mpicbg.trakem2.transform.TranslationModel2D",
            "dataString": f"{x} 3",
        }
        reference = {"type": "ref", "refId": "lens"}
        spec["transforms"] = {"type": "list", "specList": [reference, rigid]}
        specs[name] = spec
    lens = {
        "id": "lens",
        "className": "mpicbg.trakem2.transform.AffineModel2D",
        "dataString": "1 0 0 1 7 0",
    }
    content = {"tileIdToSpecMap": specs, "transformIdToSpecMap": {"lens": lens}}
    path = tmp_path / "resolved.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    assert places(open_montage(path)) == {"a.png": (3, 7), "b.png": (3, 107)}


def test_real_tile_specs_are_placed_within_40_px_of_the_truth(
    shared_data: Path,
) -> None:
    folder = shared_data / "tem_tiles/render_stitch_2x2"
    montage = open_montage(folder)
    truth = json.loads((shared_data / "truth.json").read_text())
    found = {name.removesuffix(".png"): at for name, at in places(montage).items()}
    assert montage.failures == ()
    assert {t.mask_uri for t in montage.tiles} == {str(folder / "test_mask.png")}
    for a, b, dy, dx, _ in truth["render_stitch_2x2"]["pairs"]:
        assert found[b][0] - found[a][0] == pytest.approx(dy, abs=40)
        assert found[b][1] - found[a][1] == pytest.approx(dx, abs=40)


def test_real_16_bit_tile_specs_without_sizes_are_opened(shared_data: Path) -> None:
    montage = open_montage(shared_data / "tem_tiles/render_16bit_pair")
    assert places(montage) == {
        "16_bit_source_left.png": (0, 0),
        "16_bit_source_right.png": (0, 299),
    }


MDOC = """PixelSpacing = 40
ImageFile = stack.mrc
ImageSize = 96 64
Montage = 1

[ZValue = 0]
PieceCoordinates = 0 0 0
StagePosition = 1.5 -2
Magnification = 135
DateTime = 25-Mar-21  17:00:46

[ZValue = 1]
PieceCoordinates = 80 0 0
AlignedPieceCoords = 84 3 0
DateTime = 25-Mar-21  17:00:49

[ZValue = 2]
PieceCoordinates = 0 0 1

[MontSection = 0]
"""


def write_stack(path: Path, images: int = 3) -> None:
    header = bytearray(1024)
    header[:16] = struct.pack("<4i", 96, 64, images, 6)
    header[208:212] = b"MAP "
    stack = np.stack([GRAIN.astype("<u2") + n for n in range(images)])
    path.write_bytes(bytes(header) + stack.tobytes())


def test_an_mdoc_gives_the_pieces_of_one_section(tmp_path: Path) -> None:
    write_stack(tmp_path / "stack.mrc")
    (tmp_path / "stack.mrc.mdoc").write_text(MDOC)
    with pytest.raises(ConfigError, match=r"sections \[0, 1\].*--section"):
        open_montage(tmp_path)
    montage = open_montage(tmp_path, section=0)
    assert places(montage) == {"stack.mrc#0": (0, 0), "stack.mrc#1": (3, 84)}
    assert montage.pixel_nm == 4.0
    assert montage.magnification == 135
    assert montage.tiles[0].stage_y_nm == -2000
    assert montage == open_montage(tmp_path / "stack.mrc", section=0)


def test_an_mdoc_without_its_stack_is_one_sentence(shared_data: Path) -> None:
    with pytest.raises(FormatError, match=r"LMM\.mrc is not beside it.*--image"):
        open_montage(shared_data / "mdoc/montage_section.mdoc")


def test_an_mdoc_of_a_tilt_series_is_no_montage(shared_data: Path) -> None:
    with pytest.raises(FormatError, match="41 images and no PieceCoordinates"):
        open_montage(shared_data / "mdoc/tilt_series.mdoc")


def test_a_stack_given_by_name_goes_with_a_real_mdoc(
    shared_data: Path, tmp_path: Path
) -> None:
    write_stack(tmp_path / "other.mrc", images=62)
    with (tmp_path / "other.mrc").open("r+b") as stack:
        # As large as its pieces are apart; all of it a hole in the file.
        stack.write(struct.pack("<4i", 4096, 4096, 62, 6))
        stack.truncate(1024 + 62 * 4096**2 * 2)
    mdoc = shared_data / "mdoc/montage_section.mdoc"
    montage = open_montage(mdoc, image=str(tmp_path / "other.mrc"))
    assert len(montage.tiles) == 62
    assert montage.pixel_nm == pytest.approx(65.6139)
    assert (montage.tiles[1].y_px, montage.tiles[1].x_px) == (3113, -43)


def test_of_several_lists_the_stated_order_decides(tmp_path: Path) -> None:
    write_tiles(tmp_path, ["r0c0.tif", "r0c1.tif"])
    assert places(open_montage(tmp_path))["r0c1.tif"] == (0, pytest.approx(86.4))
    write_stack(tmp_path / "stack.mrc")
    (tmp_path / "stack.mrc.mdoc").write_text(MDOC)
    assert len(open_montage(tmp_path, section=1).tiles) == 1
    specs = [tile_spec("r0c0.tif", 0, 0), tile_spec("r0c1.tif", 42, 0)]
    (tmp_path / "specs.json").write_text(json.dumps(specs))
    assert places(open_montage(tmp_path))["r0c1.tif"] == (0, 42)
    (tmp_path / "a.csv").write_text("file,x_px,y_px\nr0c0.tif,0,0\nr0c1.tif,43,0\n")
    assert places(open_montage(tmp_path))["r0c1.tif"] == (0, 43)
    (tmp_path / "tiles.csv").write_text("file,x_px,y_px\nr0c0.tif,0,0\nr0c1.tif,44,0\n")
    assert places(open_montage(tmp_path))["r0c1.tif"] == (0, 44)
    assert places(open_montage(tmp_path / "a.csv"))["r0c1.tif"] == (0, 43)
