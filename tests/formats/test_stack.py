"""Many files of one plane each as one volume."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from em_platform.errors import FormatError
from em_platform.formats.open import open_stack
from em_platform.formats.volume import PlainVolume
from em_platform.standins import image_files


def planes(folder: Path, image: Any) -> list[Path]:
    paths = [folder / f"slice_{z:04}.dm3" for z in range(len(image))]
    for path, plane in zip(paths, image, strict=True):
        image_files.write_dm(path, plane, pixel_um=0.008, name=path.stem, tags={})
    return paths


def stack(shape: tuple[int, ...] = (5, 40, 50)) -> Any:
    return np.random.default_rng(4).integers(0, 200, shape).astype(np.uint8)


def test_files_are_planes_in_the_order_given(tmp_path: Path) -> None:
    image = stack()
    paths = planes(tmp_path, image)
    volume = open_stack(paths[::-1], z_nm=50.0)
    assert volume.info.shape == image.shape
    assert volume.info.voxel_size_nm == (50.0, 8.0, 8.0)
    assert volume.info.size_bytes == sum(path.stat().st_size for path in paths)
    assert volume.info.tags["files"] == 5
    assert np.array_equal(volume.read((slice(None),) * 3), image[::-1])
    part = (slice(1, 3), slice(4, 9), slice(20, 31))
    assert np.array_equal(volume.read(part), image[::-1][part])


def test_a_region_opens_only_the_files_of_its_planes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = open_stack(planes(tmp_path, stack()))
    opened: list[str] = []
    read = PlainVolume.read

    def counted_read(self: PlainVolume, region: Any) -> Any:
        opened.append(Path(self.source.uri).stem)
        return read(self, region)

    monkeypatch.setattr(PlainVolume, "read", counted_read)
    volume.read((slice(1, 3), slice(0, 5), slice(0, 5)))
    assert opened == ["slice_0001", "slice_0002"]


@pytest.mark.parametrize(
    "odd",
    [np.zeros((40, 51), np.uint8), np.zeros((40, 50), np.uint16)],
    ids=["shape", "type"],
)
def test_a_file_that_differs_is_named(tmp_path: Path, odd: Any) -> None:
    paths = planes(tmp_path, stack())
    image_files.write_dm(paths[3], odd, pixel_um=0.008, name="odd", tags={})
    with pytest.raises(FormatError, match=r"slice_0003\.dm3: found 5[01] x 40 px"):
        open_stack(paths)


def test_a_file_that_is_cut_is_named(tmp_path: Path) -> None:
    paths = planes(tmp_path, stack())
    paths[2].write_bytes(paths[2].read_bytes()[:-500])
    with pytest.raises(FormatError, match=r"slice_0002\.dm3: truncated DM"):
        open_stack(paths)


def test_a_file_of_many_planes_is_named(tmp_path: Path) -> None:
    paths = planes(tmp_path, stack())
    tifffile.imwrite(paths[4], stack((3, 40, 50)), photometric="minisblack")
    with pytest.raises(FormatError, match=r"slice_0004\.dm3: found 3 planes"):
        open_stack(paths)


def test_a_file_of_another_magnification_is_reported(tmp_path: Path) -> None:
    image = stack()
    paths = planes(tmp_path, image)
    assert "files_of_other_pixel_size" not in open_stack(paths).info.tags
    image_files.write_dm(paths[3], image[3], pixel_um=0.009, name="odd", tags={})
    assert open_stack(paths).info.tags["files_of_other_pixel_size"] == 1


def test_no_files_are_no_stack() -> None:
    with pytest.raises(FormatError, match="found no files"):
        open_stack([])


def test_a_stack_goes_to_another_process(tmp_path: Path) -> None:
    image = stack()
    volume = open_stack(planes(tmp_path, image))
    copy = pickle.loads(pickle.dumps(volume))
    assert len(pickle.dumps(volume)) < 4000 + 400 * len(image)
    assert np.array_equal(copy.read((slice(None),) * 3), image)
