"""Pictures have the names, sizes and grey levels of the images service."""

import io
from pathlib import Path
from typing import Any

import imagecodecs
import mrcfile
import numpy as np
import PIL.Image
import pytest
import tifffile
from numpy.typing import NDArray

from em_platform.cli import main
from em_platform.cryoem.images import COMMANDS
from em_platform.cryoem.methods.grid_bars import without_grid_bars
from em_platform.cryoem.stages import thumbnail
from em_platform.errors import PlatformError

RNG = np.random.default_rng(0)


def write(path: Path, image: NDArray[Any]) -> Path:
    with mrcfile.new(path) as file:
        file.set_data(image)
    return path


def run(folder: Path, command: str, **given: object) -> list[Path]:
    parameters = thumbnail.Parameters.model_validate(
        {"image_command": command, **given}
    )
    result = thumbnail.run(parameters, folder)
    assert result.image_command == command or not command
    return [folder / name for name in result.files]


def picture(path: Path) -> NDArray[np.uint8]:
    return np.asarray(PIL.Image.open(path))


def as_service(image: NDArray[Any], side: int, *, sigmas: float = 3) -> Any:
    """Grey levels by the rule of the images service, in float64."""
    image = image.astype(np.float64)
    low = image.mean() - sigmas * image.std()
    high = image.mean() + sigmas * image.std()
    image = np.clip(image, low, high)
    grey = ((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)
    shown = PIL.Image.fromarray(grey)
    shown.thumbnail((side, side))
    content = io.BytesIO()
    shown.save(content, "jpeg")
    return np.asarray(PIL.Image.open(content), np.float64)


VOLUME = RNG.normal(100, 20, (12, 600, 700)).astype(np.float32)
VOLUME[6, 200:400, 100:300] += 40


def test_the_central_slice(tmp_path: Path) -> None:
    path = write(tmp_path / "tomo_Vol.mrc", VOLUME)
    (made,) = run(tmp_path, "mrc_central_slice", file=path)
    assert made.name == "tomo_Vol_thumbnail.jpeg"
    shown = picture(made)
    assert shown.shape == (439, 512)
    assert np.abs(shown - as_service(VOLUME[6], 512)).max() <= 2


def test_only_the_central_slice_is_read(tmp_path: Path) -> None:
    """The others of this file are not even there: it is a hole of 200 GB."""
    path = tmp_path / "large.mrc"
    write(path, VOLUME[6][:64, :64])
    slices, size = 20_000_001, 64 * 64 * 4
    content = bytearray(path.read_bytes())
    content[8:12] = slices.to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(content[:1024])
        file.seek(1024 + slices // 2 * size)
        file.write(content[1024:])
        file.truncate(1024 + slices * size)
    (made,) = run(tmp_path, "mrc_central_slice", file=path)
    assert np.abs(picture(made) - as_service(VOLUME[6][:64, :64], 512)).max() <= 2


def test_a_micrograph_is_shrunk_or_has_a_bar(tmp_path: Path) -> None:
    image = RNG.normal(0, 5, (1200, 1500)).astype(np.float32)
    path = write(tmp_path / "mic.mrc", image)
    (made,) = run(tmp_path, "mrc_to_jpeg", file=path)
    assert np.abs(picture(made) - as_service(image, 1024)).mean() < 0.05
    (made,) = run(tmp_path, "mrc_to_jpeg", file=path, pixel_spacing="10")
    shown = picture(made).astype(int)
    assert shown.shape == (1200, 1500, 3)
    yellow = shown[:, 20, 0] - shown[:, 20, 2] > 100
    assert 395 <= yellow.sum() <= 405  # a third of the height
    assert yellow[600]


def test_slices_of_a_stack(tmp_path: Path) -> None:
    volume = VOLUME[:3, :64, :64].copy()
    volume[1] = 0  # of a class without particles
    path = write(tmp_path / "stack.mrcs", volume)
    made = run(
        tmp_path, "mrc_to_jpeg", file=path, all_frames=True, output_suffix=".jpg"
    )
    assert [each.name for each in made] == ["stack_1.jpg", "stack_2.jpg", "stack_3.jpg"]
    assert picture(made[2]).shape == (64, 64)
    assert [bool(picture(each).any()) for each in made] == [True, False, True]


@pytest.mark.parametrize(("kind", "axis"), [("XY", 0), ("YZ", 1), ("xz", 2)])
def test_projections(tmp_path: Path, kind: str, axis: int) -> None:
    volume = VOLUME[:, :60, :70]
    path = write(tmp_path / "v.mrc", volume)
    (made,) = run(tmp_path, "mrc_projection", file=path, projection=kind)
    assert made.name == f"v_proj{kind}.jpeg"
    assert np.abs(picture(made) - as_service(volume.mean(axis), 4096)).max() <= 3


def test_the_thickness_is_a_bar(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mrc", VOLUME[:, :300, :300])
    given = {
        "file": path,
        "projection": "XY",
        "pixel_spacing": 10,
        "thickness_ang": 500,
    }
    shown = picture(run(tmp_path, "mrc_projection", **given)[0]).astype(int)
    yellow = shown[:, 20, 0] - shown[:, 20, 2] > 100
    assert 48 <= yellow.sum() <= 55


def frames(path: Path) -> NDArray[np.uint8]:
    return np.asarray(imagecodecs.apng_decode(path.read_bytes()), np.uint8)


def test_films_have_all_slices_and_blank_ones_are_black(tmp_path: Path) -> None:
    volume = VOLUME[:5, :600, :600].copy()
    volume[0] = 7
    path = write(tmp_path / "tomo.mrc", volume)
    (made,) = run(tmp_path, "mrc_to_apng", file=path)
    film = frames(made)
    assert made.name == "tomo_movie.png"
    assert film.shape == (5, 512, 512)
    assert film[0].max() == 0
    assert film[3].std() > 20
    (made,) = run(tmp_path, "mrc_to_apng", file=path, jitter_edge=True)
    assert frames(made)[0].max() > 0


def test_segmentations_in_colours(tmp_path: Path) -> None:
    one, other = np.zeros((2, 14, 32, 32), np.float32)
    one[:, 4:8], other[:, 20:24] = 1, 1
    paths = [write(tmp_path / f"{i}.mrc", v) for i, v in enumerate((one, other))]
    given = {"file_list": paths, "outfile": "/somewhere/seg_movie.png"}
    film, still = run(tmp_path, "mrc_to_apng_colour", **given)
    assert (film.name, still.name) == ("seg_movie.png", "seg_thumbnail.jpeg")
    shown = frames(film)
    assert shown[7, 5, 5].tolist() == [255, 255, 255]
    assert shown[7, 22, 5].tolist() == [142, 59, 70]
    assert shown[0].max() == 0  # the edge is clipped
    many = {"file_list": paths * 4, "outfile": "a_movie.png"}
    assert len(run(tmp_path, "mrc_to_apng_colour", **many)) == 2  # fails upstream


def test_picks_are_circles(tmp_path: Path) -> None:
    path = write(tmp_path / "mic.mrc", RNG.normal(0, 1, (400, 500)).astype(np.float32))
    given = {
        "file": path.with_suffix(".jpeg"),
        "coordinates": [["100", "200"], [300, 250]],
        "selected_coordinates": [[300, 250]],
        "angpix": 2,
        "diameter": 80,
        "contrast_factor": 0.01,
        "outfile": tmp_path / "picked.png",
    }
    shown = picture(run(tmp_path, "picked_particles", **given)[0])
    assert shown[200, 82].tolist() == [245, 138, 7]  # orange, 20 px from the middle
    assert shown[250, 283].tolist() == [152, 223, 138]  # green on top
    empty = {**given, "coordinates": [""], "selected_coordinates": []}
    assert picture(run(tmp_path, "picked_particles", **empty)[0]).std() < 2


def test_grid_bars_become_as_grey_as_ice() -> None:
    image = RNG.normal(0, 1, (512, 512)).astype(np.float32)
    image[:, :150] -= 30
    flat = without_grid_bars(image)
    assert flat is not None
    assert flat[:, :150].min() > -25
    assert abs(flat[:, 300:].mean() - image[:, 300:].mean()) < 1
    assert without_grid_bars(image[:, 200:]) is None


CBOX = """data_cryolo

loop_
_CoordinateX
_CoordinateY
_CoordinateZ
_Width
_Height
_EstWidth
_EstHeight
_NumBoxes
_Confidence
90 190 6 20 20 40 40 9 0.9
200 100 1 20 20 40 40 3 0.9
"""


def test_picks_in_a_tomogram_are_seen_where_they_cross(tmp_path: Path) -> None:
    path = write(tmp_path / "tomo.mrc", VOLUME[:, :400, :400])
    picks = tmp_path / "picks.cbox"
    picks.write_text(CBOX)
    given = {"file": path, "coordinates_file": picks, "box_size": 20}
    (still,) = run(tmp_path, "picked_particles_3d_central_slice", **given)
    assert still.name == "picks_thumbnail.jpeg"
    (film,) = run(tmp_path, "picked_particles_3d_apng", **given)
    assert film.name == "picks_movie.png"

    def reds(image: NDArray[np.uint8], x: int, y: int) -> int:
        near = image[y - 25 : y + 25, x - 25 : x + 25].astype(int)
        return int((near[..., 0] - near[..., 2] > 150).sum())

    shown = frames(film)
    assert reds(shown[6], 100, 200) > 200 > 0 == reds(shown[6], 210, 110)
    assert reds(shown[1], 210, 110) > 200 > 0 == reds(shown[1], 100, 200)
    picks.write_text("data_cryolo\n\nloop_\n_CoordinateX\n_CoordinateY\n")
    run(tmp_path, "picked_particles_3d_central_slice", **given)


def test_tiffs(tmp_path: Path) -> None:
    pages = RNG.integers(0, 255, (3, 40, 60), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    given = {"input_file": tmp_path / "a.tif", "output_file": "b.png"}
    (made,) = run(tmp_path, "tiff_to_apng", **given)
    assert np.array_equal(frames(made), pages)
    small = {**given, "target_size": [20, 30], "color": "Green"}
    (made,) = run(tmp_path, "tiff_to_apng", **small)
    shown = frames(made)
    assert shown.shape == (3, 20, 30, 3)
    assert shown[..., 1].max() > 0 == shown[..., 0].max()


ALN = """# AreTomo Alignment / Priims bprmMn
# SEC     ROT         GMAG       TX          TY      SMEAN  SFIT  SCALE  BASE  TILT
    0    85.0000    1.00000      0.000      0.000   1.00   1.00   1.00   0.0   -30.00
    1    85.0000    1.00000   1200.000      0.000   1.00   1.00   1.00   0.0     0.00
# Local Alignment
    0   0   1.0  2.0  3.0  4.0
"""


def test_the_alignment_of_a_tilt_series(tmp_path: Path) -> None:
    path = write(tmp_path / "stack.mrc", VOLUME[:2])
    (tmp_path / "s.aln").write_text(ALN)
    given = {"file": path, "projection": "XZ"}
    (made,) = run(
        tmp_path, "tilt_series_alignment", aln_file=tmp_path / "s.aln", **given
    )
    assert made.name == "stack_alignment.jpeg"
    assert picture(made).shape == (750, 874, 3)  # an eighth wider on each side
    (tmp_path / "s.xf").write_text("1 0 0 1 5 -3\n" * 2)
    with pytest.raises(PlatformError, match=r"found no s\.rawtlt or s\.tlt"):
        run(tmp_path, "tilt_series_alignment", xf_file=tmp_path / "s.xf", **given)
    (tmp_path / "s.tlt").write_text("-30\n0\n")
    assert run(tmp_path, "tilt_series_alignment", xf_file=tmp_path / "s.xf", **given)


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"tiff_to_apng"}))
def test_bad_images_are_one_sentence_and_leave_nothing(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / "picks.cbox").write_text(CBOX)
    (tmp_path / "s.aln").write_text(ALN)
    flat = command in {"mrc_to_jpeg", "picked_particles"}
    good = np.zeros((16, 16) if flat else (2, 16, 16), np.float32)
    path = write(tmp_path / "blank.mrc", good)
    given = {
        "file": path, "file_list": [tmp_path / "none.mrc"], "outfile": "made.png",
        "diameter": 5, "coordinates_file": tmp_path / "picks.cbox",
        "aln_file": tmp_path / "s.aln",
    }  # fmt: skip
    there = {*tmp_path.iterdir()}
    if not command.startswith("picked_particles_3d") and "colour" not in command:
        with pytest.raises(PlatformError, match=r"blank\.mrc"):
            run(tmp_path, command, **given)
    with pytest.raises(PlatformError, match=r"none\.mrc: found no such file"):
        run(tmp_path, command, **{**given, "file": tmp_path / "none.mrc"})
    assert {*tmp_path.iterdir()} == there


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"image_command": "mrc_to_gif"}, "found the command mrc_to_gif"),
        ({"image_command": "mrc_central_slice"}, "found no `file`"),
        ({"image_command": "mrc_projection", "projection": "XX"}, "projection XX"),
    ],
)
def test_wrong_parameters_are_one_sentence(
    tmp_path: Path, given: dict[str, str], sentence: str
) -> None:
    if "projection" in given:
        given = {**given, "file": str(write(tmp_path / "v.mrc", VOLUME[:2, :9, :9]))}
    with pytest.raises(PlatformError, match=sentence):
        thumbnail.run(thumbnail.Parameters.model_validate(given), tmp_path)


def test_not_a_number_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mrc", VOLUME[6, :20, :20])
    with mrcfile.mmap(path, mode="r+") as file:
        file.data[3, 4:7] = np.nan
    with pytest.raises(PlatformError, match="3 of 400 pixels are not numbers"):
        run(tmp_path, "mrc_to_jpeg", file=path)


def test_one_folder_takes_the_pictures_of_one_file_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """round3 1.1.8: the second file was refused."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "pictures"
    for name in ("a", "b", "a"):
        image = tmp_path / f"{name}.mrc"
        mrcfile.write(image, rng.normal(size=(64, 64)).astype("f4"), overwrite=True)
        with pytest.raises(SystemExit) as end:
            main(["cryoem", "thumbnail", str(image), "--output", str(folder)])
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        assert f"files            {name}.jpeg" in printed.out
    assert sorted(p.name for p in folder.rglob("*.jpeg")) == ["a.jpeg", "b.jpeg"]
