import cv2
import numpy as np
import pytest

from em_platform.imaging.thumbnail import thumbnail


@pytest.mark.parametrize("kind", [".png", ".jpg"])
@pytest.mark.parametrize("shape", [(800, 800), (60, 900), (900, 30), (5, 5)])
def test_a_picture_of_noise_still_fits(kind: str, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, shape, dtype=np.uint8)
    small = thumbnail(cv2.imencode(kind, noise)[1].tobytes(), limit_bytes=7_500)
    assert len(small) <= 7_500
    height, width = cv2.imdecode(
        np.frombuffer(small, np.uint8), cv2.IMREAD_UNCHANGED
    ).shape[:2]
    assert width <= 360
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.1)


def test_a_plain_picture_keeps_its_grey_level() -> None:
    grey = np.full((100, 200), 90, np.uint8)
    small = thumbnail(cv2.imencode(".png", grey)[1].tobytes(), limit_bytes=7_500)
    pixels = cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels.shape == (100, 200)
    assert np.abs(pixels.astype(int) - 90).max() <= 2


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture"):
        thumbnail(b"GIF89a", limit_bytes=7_500)
