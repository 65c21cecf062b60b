import gzip
from pathlib import Path

import numpy as np
import pytest

from em_platform.errors import FormatError
from em_platform.ingest.dvid_labels import decode_label_block


@pytest.fixture
def real_block(shared_data: Path) -> bytes:
    """A block of labels of the fruit fly's FIB-19 volume, as DVID stores it."""
    name = "dvid/fib19-64x64x64-sample1-block.dat.gz"
    return gzip.decompress((shared_data / name).read_bytes())


def test_a_real_block_has_the_labels_of_its_raw_twin(
    real_block: bytes, shared_data: Path
) -> None:
    raw = gzip.decompress(
        (shared_data / "dvid/fib19-64x64x64-sample1.dat.gz").read_bytes()
    )
    truth = np.frombuffer(raw, "<u8").reshape(64, 64, 64)
    labels = decode_label_block(real_block, who="dvid")
    assert labels.dtype == np.uint64
    assert np.array_equal(labels, truth)
    assert len(np.unique(labels)) == 18


def test_a_block_of_one_label_is_full_of_it_and_keeps_its_axes() -> None:
    block = np.array([3, 2, 1, 1], "<u4").tobytes() + np.uint64(2**63).tobytes()
    labels = decode_label_block(block, who="dvid")
    assert labels.shape == (8, 16, 24)
    assert (labels == 2**63).all()


def test_a_subblock_without_labels_is_background() -> None:
    block = (
        np.array([2, 1, 1, 2], "<u4").tobytes()
        + np.array([7, 9], "<u8").tobytes()
        + np.array([0, 1], "<u2").tobytes()
        + np.array([1], "<u4").tobytes()
    )
    labels = decode_label_block(block, who="dvid")
    assert (labels[:, :, :8] == 0).all()
    assert (labels[:, :, 8:] == 9).all()


@pytest.mark.parametrize("length", [0, 15, 100, 1000, 22511])
def test_a_cut_block_is_reported(real_block: bytes, length: int) -> None:
    with pytest.raises(FormatError, match=r"^dvid: a label block ends \d+ bytes too"):
        decode_label_block(real_block[:length], who="dvid")


def test_bytes_that_are_no_block_are_reported(real_block: bytes) -> None:
    with pytest.raises(FormatError, match="are no DVID label block"):
        decode_label_block(b"\xff" * 100, who="dvid")
    bad_place = bytearray(real_block)
    at = 16 + 18 * 8 + 512 * 2
    bad_place[at : at + 4] = (18).to_bytes(4, "little")
    with pytest.raises(FormatError, match="names label 18 of a list of 18"):
        decode_label_block(bytes(bad_place), who="dvid")
    three = (
        np.array([1, 1, 1, 3], "<u4").tobytes()
        + np.array([1, 2, 3], "<u8").tobytes()
        + np.array([3], "<u2").tobytes()
        + np.arange(3, dtype="<u4").tobytes()
        + b"\xff" * 128
    )
    with pytest.raises(FormatError, match="names label 3 of a list of 3"):
        decode_label_block(three, who="dvid")
