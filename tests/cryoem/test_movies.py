"""Frames of movies in the formats of the field, and what their headers state."""

import gzip
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from em_platform.config import OutputSettings
from em_platform.cryoem.headers import read_header
from em_platform.cryoem.movies import open_movie, read_image
from em_platform.errors import FormatError
from em_platform.ome_zarr import convert

EVENTS = 65001
"""TIFF compression of EER: 7 bits of gap, 2 of each position within a pixel."""
METADATA = """<metadata><item name="sensorPixelSize.width" unit="m">7.4e-11</item>
<item name="accelerationVoltage">300000</item></metadata>"""


def encoded(counts: NDArray[np.uint8]) -> bytes:
    """Electron events of one frame, `(h, w)` of 0 and 1, as the camera packs them."""
    bits, gap = "", 0
    for pixel in counts.ravel():
        if pixel:
            # The lowest bit comes first; 127 is a gap that goes on.
            while gap >= 127:
                bits, gap = bits + "1" * 7, gap - 127
            bits, gap = bits + f"{gap:07b}"[::-1] + "0000", 0
        else:
            gap += 1
    while gap >= 127:
        bits, gap = bits + "1" * 7, gap - 127
    bits += f"{gap:07b}"[::-1]
    bits += "0" * (-len(bits) % 16)  # whole words
    packed = [int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8)]
    return bytes(packed)


@pytest.fixture
def frames() -> NDArray[np.uint8]:
    rng = np.random.default_rng(4)
    return (rng.random((7, 32, 48)) < 0.02).astype(np.uint8)


def eer(path: Path, frames: NDArray[np.uint8]) -> Path:
    """A BigTIFF as the camera writes it; tifffile only reads these."""
    metadata = METADATA.encode()
    body = b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + len(metadata)) + metadata
    for number, frame in enumerate(frames):
        events = encoded(frame)
        height, width = frame.shape
        tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8)]
        tags += [(259, 3, 1, EVENTS), (262, 3, 1, 1), (273, 4, 1, 0), (277, 3, 1, 1)]
        tags += [(278, 4, 1, height), (279, 4, 1, len(events))]
        tags += [(EVENTS, 7, len(metadata), 16)] if number == 0 else []
        start = len(body) + 8 + 20 * len(tags) + 8
        tags[5] = (273, 4, 1, start)
        following = start + len(events) if number < len(frames) - 1 else 0
        body += struct.pack("<Q", len(tags))
        body += b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
        body += struct.pack("<Q", following) + events
    path.write_bytes(body)
    return path


def test_events_are_summed_by_groups(tmp_path: Path, frames: NDArray[np.uint8]) -> None:
    path = eer(tmp_path / "movie.eer", frames)
    movie = open_movie(path, eer_grouping=3)
    assert movie.shape == (2, 32, 48)  # the seventh is left over
    assert np.array_equal(movie.frame(1), frames[3:6].sum(0))
    finer = open_movie(path, eer_grouping=7, eer_upsampling=2)
    assert finer.shape == (1, 64, 96)
    assert finer.frame(0).sum() == frames.sum()
    header = read_header(path)
    assert (header.pixel_size_a, header.voltage_kv) == (0.74, 300)
    with pytest.raises(FormatError, match="found 7 frames of electron events, at"):
        open_movie(path, eer_grouping=20)


def test_a_truncated_file_of_events_is_one_sentence(
    tmp_path: Path, frames: NDArray[np.uint8]
) -> None:
    path = eer(tmp_path / "movie.eer", frames)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(FormatError, match=r"found \d frames of electron events"):
        open_movie(path, eer_grouping=7)
    eer(path, frames)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FormatError, match="truncated or damaged at frame"):
        open_movie(path, eer_grouping=7)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match=r"movie\.eer"):
        open_movie(path)


def test_frames_of_tiff_and_packed_mrc(
    tmp_path: Path, frames: NDArray[np.uint8]
) -> None:
    tifffile.imwrite(tmp_path / "m.tif", frames, compression="lzw")
    with mrcfile.new(tmp_path / "m.mrc") as file:
        file.set_data(frames.astype(np.int16))
        file.voxel_size = 1.25
    packed = tmp_path / "m.mrc.gz"
    packed.write_bytes(gzip.compress((tmp_path / "m.mrc").read_bytes()))
    for path in (tmp_path / "m.tif", tmp_path / "m.mrc", packed):
        movie = open_movie(path)
        assert movie.shape == frames.shape
        # RELION 3.1 reads a TIFF from its last row on.
        expected = frames[5][::-1] if path.suffix == ".tif" else frames[5]
        assert np.array_equal(movie.frame(5), expected)
    assert read_header(packed).pixel_size_a == 1.25
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(FormatError, match=r"m\.mrc\.gz: truncated or damaged"):
        open_movie(packed)


@pytest.mark.parametrize("kind", ["shapes", "types", "last", "header"])
def test_images_that_would_be_passed_over_are_refused(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """round3 1.1.7: one of four frames was used, with status 0."""
    whole = np.ones((48, 64), np.uint16)
    other = whole[:40] if kind != "types" else whole.astype(np.uint8)
    path = tmp_path / "m.tif"
    if kind == "header":
        path = tmp_path / "m.mrc"
        mrcfile.write(path, np.ones((4, 48, 64), np.uint16))
        header = bytearray(path.read_bytes())
        header[8:12] = (1).to_bytes(4, "little")
        path.write_bytes(header)
    else:
        with tifffile.TiffWriter(path) as file:
            for page in (whole, *[whole if kind == "last" else other] * 2, other):
                file.write(page, metadata=None)
            file.write(whole[:8, :8], metadata=None, subfiletype=1)  # a preview
    found = r"images up to number 4" if kind == "header" else r"page \d \(64 x 4[08] px"
    with pytest.raises(
        FormatError, match=f"{found}.* beside [13] images? of 64 x 48 px"
    ):
        open_movie(path)
    # A volume has them left out, and it is written where.
    convert(str(path), str(tmp_path / "v.zarr"), settings=OutputSettings())
    (warned,) = (each for each in caplog.messages if "left out" in each)
    assert warned.startswith(f"{path}: left out ")


def test_an_mdoc_states_what_the_file_does_not(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "m.mrc") as file:
        file.set_data(np.zeros((2, 8, 8), np.int8))
        file.voxel_size = 1.0  # of a program that knows none
    (tmp_path / "m.mrc.mdoc").write_text(
        "T = SerialEM:  Tilt axis angle = 82.9, binning = 1\nVoltage = 200\n\n"
        "[FrameSet = 0]\nTiltAngle = -3.0\nPixelSpacing = 1.971\n"
        "ExposureDose = 4.5\nNumSubFrames = 10\n"
    )
    found = read_header(tmp_path / "m.mrc")
    assert (found.pixel_size_a, found.voltage_kv, found.dose_per_frame) == (
        1.971,
        200,
        0.45,
    )
    assert (found.tilt_deg, found.axis_deg) == (-3, 82.9)


def test_an_image_that_is_not_finite_or_not_alone_is_refused(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "m.mrc") as file:
        file.set_data(np.zeros((4, 4), np.float32))
        file.data[1, 2] = np.nan
    with pytest.raises(FormatError, match="values that are not finite"):
        read_image(tmp_path / "m.mrc")
    with mrcfile.new(tmp_path / "two.mrc") as file:
        file.set_data(np.zeros((2, 4, 4), np.float32))
    with pytest.raises(FormatError, match="found 2 images, expected one"):
        read_image(tmp_path / "two.mrc")
