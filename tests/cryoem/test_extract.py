"""Boxes are cut, shrunk and normalised as RELION and cryoem-services do it."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from em_platform.cryoem.methods.boxes import box_for, cut_boxes, small_box_for
from em_platform.cryoem.methods.coordinates import star_of_picks
from em_platform.cryoem.methods.particle_star import read_particles
from em_platform.cryoem.stages import extract
from em_platform.errors import PlatformError

IMAGE = np.random.default_rng(2).normal(5, 2, (120, 160)).astype(np.float32)


@pytest.mark.parametrize(
    ("diameter_a", "pixel_a", "box", "small"),
    # 1.2 of the diameter, even; the first fast size finer than 3.75 Å a pixel.
    [(150, 1.0, 180, 64), (190, 0.885, 258, 64), (300, 0.5, 720, 128), (20, 4, 6, 6)],
)
def test_boxes_follow_from_the_diameter(
    diameter_a: float, pixel_a: float, box: int, small: int
) -> None:
    assert box_for(diameter_a, pixel_a) == box
    assert small_box_for(box, pixel_a) == small


def test_a_box_is_the_pixels_round_the_pick() -> None:
    given = {"box_px": 16, "small_px": 16, "normalise": False, "background_px": 100}
    plain = cut_boxes(IMAGE, [(40.4, 50.6)], invert=False, **given)  # type: ignore[arg-type]
    assert np.array_equal(plain[0], IMAGE[43:59, 32:48])
    turned = cut_boxes(IMAGE, [(40.4, 50.6)], invert=True, **given)  # type: ignore[arg-type]
    assert np.array_equal(turned, -plain)


def test_over_an_edge_the_edge_is_repeated() -> None:
    ramp = np.arange(40, dtype=np.float32)[:, None] + np.zeros((40, 40), np.float32)
    box = cut_boxes(
        ramp, [(20, 2)], box_px=16, small_px=16, invert=False, normalise=False,
        background_px=100,
    )[0]  # fmt: skip
    assert box[:6].max() == 0  # the rows above the image are its first one
    assert box[-1, 0] == 9


def test_the_background_is_flat_with_deviation_one() -> None:
    y, x = np.mgrid[:120, :160]
    image = IMAGE + 0.3 * x - 0.2 * y
    boxes = cut_boxes(
        image, [(60, 60), (90, 50)],
        box_px=48, small_px=24, invert=True, normalise=True,
    )  # fmt: skip
    axis = np.arange(24) - 11.5
    outside = np.hypot(axis[:, None], axis) > 0.375 * 24
    assert boxes.shape == (2, 24, 24)
    assert np.abs(boxes[:, outside].mean(axis=1)).max() < 1e-5
    assert np.allclose(boxes[:, outside].std(axis=1), 1, atol=1e-4)
    slope = np.polyfit(x[:24, :24][outside], boxes[0][outside], 1)[0]
    assert abs(slope) < 1e-5


def write_inputs(folder: Path, points: list[tuple[float, float]]) -> dict[str, Path]:
    with mrcfile.new(folder / "mic.mrc") as file:
        file.set_data(IMAGE)
    star = star_of_picks(
        np.array(points).reshape(-1, 2), scores=np.arange(len(points), 0, -1.0)
    )
    (folder / "picks.star").write_bytes(star)
    return {
        "micrographs_file": folder / "mic.mrc",
        "coord_list_file": folder / "picks.star",
    }


def test_the_table_names_images_from_one_and_their_ctf(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path, [(60, 60), (90, 50), (30, 70)])
    given = extract.Parameters(
        **inputs, pixel_size=2, boxsize=32, small_boxsize=16, downscale=True,
        defocus_u=12000, defocus_v=11500, defocus_angle=30, confidence_threshold=1.5,
    )  # fmt: skip
    result = extract.run(given, tmp_path)
    assert (result.particles, result.box_px, result.pixel_size_a) == (2, 16, 4.0)
    tables = starfile.read(tmp_path / "particles.star")
    assert [*tables["particles"]["rlnImageName"]] == [
        "000001@mic.mrcs",
        "000002@mic.mrcs",
    ]
    assert tables["particles"]["rlnDefocusV"][0] == 11500
    assert tables["optics"]["rlnImagePixelSize"][0] == 4.0
    with mrcfile.open(tmp_path / "mic.mrcs") as file:
        assert file.data.shape == (2, 16, 16)
        assert file.voxel_size.x == 4.0
    found = read_particles(tmp_path / "particles.star")
    assert found.images == ((0, tmp_path / "mic.mrcs"), (1, tmp_path / "mic.mrcs"))
    assert found.defocus_a is not None
    assert found.defocus_a[0].tolist() == [12000, 11500, 30]


def test_without_picks_the_table_is_empty(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path, [])
    result = extract.run(extract.Parameters(**inputs, pixel_size=2), tmp_path)
    assert (result.particles, result.stack) == (0, None)
    with pytest.raises(PlatformError, match="found no particles"):
        read_particles(tmp_path / result.star)


def test_picks_of_another_micrograph_are_refused(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path, [(60, 60), (170, 50)])
    with pytest.raises(PlatformError, match=r"1 picks outside .* such as \(170, 50\)"):
        extract.run(extract.Parameters(**inputs, pixel_size=2), tmp_path)


@pytest.mark.parametrize("text", ["data_\n\nloop_\n_a\n1\n", "not a star file", None])
def test_coordinates_that_cannot_be_read_are_one_sentence(
    tmp_path: Path, text: str | None
) -> None:
    inputs = write_inputs(tmp_path, [(60, 60)])
    if text is None:
        inputs["coord_list_file"].unlink()
    else:
        inputs["coord_list_file"].write_text(text)
    with pytest.raises(PlatformError, match=r"picks\.star"):
        extract.run(extract.Parameters(**inputs, pixel_size=2), tmp_path)
