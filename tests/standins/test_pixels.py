"""Real voxels of which every part is known."""

import hashlib
from importlib.resources import files

import numpy as np
import pytest

from em_platform.standins.pixels import Pixels, medulla


def test_the_crop_is_what_its_readme_says() -> None:
    readme = (files("em_platform.standins") / "medulla/README.md").read_text()
    crop = medulla()
    assert crop.shape == (64, 128, 128)
    assert hashlib.sha256(crop.tobytes()).hexdigest() in readme


def test_the_crop_is_of_the_real_volume(shared_data) -> None:  # type: ignore[no-untyped-def]
    import imagecodecs

    folder = shared_data / "volumes/flyem_medulla_fibsem/sample1"
    for place in (0, 63):
        section = imagecodecs.png_decode(
            (folder / f"iso.{2680 + place}.png").read_bytes()
        )
        assert np.array_equal(section[60:188, 60:188], medulla()[place])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "float32"])
def test_any_part_is_that_of_the_whole(dtype: str) -> None:
    pixels = Pixels(shape=(70, 157, 162), dtype=dtype, variant=3)
    whole = pixels.whole()
    assert (whole.shape, whole.dtype, whole.nbytes) == (
        pixels.shape,
        np.dtype(dtype),
        pixels.nbytes,
    )
    part = pixels.read((60, 100, 7), (10, 57, 150))
    assert np.array_equal(part, whole[60:70, 100:157, 7:157])


def test_no_place_looks_like_another() -> None:
    whole = Pixels(shape=(300, 300, 300)).whole()
    blocks = {
        whole[z : z + 60, y : y + 60, x : x + 60].tobytes()
        for z in range(0, 300, 60)
        for y in range(0, 300, 60)
        for x in range(0, 300, 60)
    }
    assert len(blocks) == 125


def test_variants_are_different_images() -> None:
    images = [Pixels(shape=(8, 64, 64), variant=n).whole() for n in range(12)]
    assert len({image.tobytes() for image in images}) == 12
    assert all(image.std() > 15 for image in images)
