"""Reads of one server wait for each other as long as the rate says."""

import time
from pathlib import Path

import numpy as np
import pytest

from em_platform.formats.chunked import open_chunked
from em_platform.formats.chunked.arrays import wait_for_turn
from tests.formats.chunk_writers import noise, write_v2
from tests.formats.served_folder import serving_folder


def test_the_first_does_not_wait_and_each_further_one_does() -> None:
    waits: list[float] = []
    for _ in range(3):
        wait_for_turn("paced.example", 5, per_second=10, sleep=waits.append)
    wait_for_turn("other.example", 5, per_second=10, sleep=waits.append)
    assert waits == pytest.approx([0.5, 1.0], abs=0.05)


def test_chunks_of_a_server_come_at_most_so_fast(tmp_path: Path) -> None:
    with serving_folder(tmp_path) as served:
        write_v2(served.folder / "volume", noise())  # 27 chunks
        options = {**served.options, "requests_per_second": 60}
        for url, expected_s in (
            (f"{served.http}/volume", 2 * 9 / 60),
            (f"{served.folder}/volume", 0.0),
        ):
            volume = open_chunked(url, options=options)
            started = time.monotonic()
            parts = [
                volume.read((slice(z, z + 8), slice(None), slice(None)))
                for z in (0, 8, 16)
            ]
            took_s = time.monotonic() - started
            assert np.array_equal(np.concatenate(parts), noise())
            assert took_s >= expected_s * 0.95
