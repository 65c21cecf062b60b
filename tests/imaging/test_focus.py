"""The score falls with blur and with nothing else."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.imaging.exposure import defocused, expose
from em_platform.imaging.focus import focus_score
from em_platform.simulation.specimen.tissue import tissue

Float = NDArray[np.float32]
SIDE = 1024
COUNT = 4


@pytest.fixture(scope="module")
def lights() -> list[Float]:
    return [
        tissue(9000 * i, 7000 * i, height=SIDE, width=SIDE, section=i, seed=i)
        for i in range(COUNT)
    ]


def scores(lights: list[Float], sigma_px: float, *, electrons: float) -> Float:
    return np.array(
        [
            focus_score(
                expose(
                    defocused(light, sigma_px) if sigma_px else light,
                    noise_key=(i, round(electrons)),
                    electrons=electrons,
                )
            )
            for i, light in enumerate(lights)
        ],
        np.float32,
    )


@pytest.mark.parametrize("electrons", [400.0, 100.0])
def test_blur_takes_the_score_away(lights: list[Float], electrons: float) -> None:
    sharp = scores(lights, 0.0, electrons=electrons)
    soft = scores(lights, 1.0, electrons=electrons)
    blurred = scores(lights, 3.0, electrons=electrons)
    assert (soft < 0.75 * sharp).all()
    assert (blurred < 0.1 * sharp).all()  # at most 0.25 is asked for
    assert float(sharp.std() / sharp.mean()) < 0.12
    assert (blurred < 0.05).all()  # the default limit of the quality rule
    assert (sharp > 0.2).all()


def test_noise_does_not_look_like_focus(lights: list[Float]) -> None:
    quiet = scores(lights, 0.0, electrons=1000.0)
    noisy = scores(lights, 0.0, electrons=100.0)
    assert float(np.abs(noisy / quiet - 1.0).max()) < 0.05
    assert float(scores(lights, 3.0, electrons=100.0).max()) < 0.05


def test_brightness_contrast_and_shading_do_not_matter(lights: list[Float]) -> None:
    light = lights[0]
    shade = np.linspace(0.7, 1.3, SIDE, dtype=np.float32)[None]
    whole = focus_score(light)
    assert focus_score(0.3 * light + 40) == pytest.approx(whole, rel=0.01)
    assert focus_score(shade * light) == pytest.approx(whole, rel=0.03)
    assert focus_score((100 * light).astype(np.uint16)) == pytest.approx(
        whole, rel=0.01
    )


def test_lines_of_unequal_offset_do_not_matter(lights: list[Float]) -> None:
    offset = np.random.default_rng(0).normal(0, 3, (1, SIDE)).astype(np.float32)
    blurred = defocused(lights[0], 3.0)
    assert focus_score(blurred + offset) < 0.05


def test_an_image_without_specimen_scores_0() -> None:
    even = np.full((600, 600), 180.0, np.float32)
    assert focus_score(expose(even, noise_key=(1,), electrons=200.0)) == 0.0
    assert focus_score(np.zeros((600, 600), np.uint8)) == 0.0


def test_a_half_empty_tile_scores_like_a_full_one(lights: list[Float]) -> None:
    half = lights[1].copy()
    half[:, SIDE // 2 :] = 180.0
    frames = [expose(light, noise_key=(2,)) for light in (lights[1], half)]
    full, part = (focus_score(frame) for frame in frames)
    assert part == pytest.approx(full, rel=0.25)


def test_small_images_are_scored_and_tiny_ones_are_0(lights: list[Float]) -> None:
    assert focus_score(lights[0][:70, :300]) > 0.1
    assert focus_score(lights[0][:63, :300]) == 0.0


def test_real_tiles_in_focus_pass_the_default_limit(shared_data: Path) -> None:
    for path in sorted((shared_data / "tem_tiles").rglob("*.[jp][pn]g")):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image is not None
        if "mask" in path.name:
            continue
        image = image[60:-60, 60:-60]
        assert focus_score(image) > 0.15, path
        blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 3.0)
        assert focus_score(blurred) < 0.03, path
