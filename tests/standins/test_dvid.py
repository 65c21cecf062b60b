"""The stand-in speaks DVID's protocol: plain HTTP against plain numpy."""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import requests

from em_platform.standins.dvid import Dvid
from em_platform.standins.dvid_instance import Instance, refuse, to_label_block
from em_platform.standins.flyem import Labels, fib19
from em_platform.standins.http import Server
from em_platform.standins.pixels import Pixels

VOLUME = Pixels(shape=(70, 130, 200), variant=4)
GREY = VOLUME.whole()
"""Real voxels; z, y and x differ, so that exchanged axes show."""
ORIGIN = (5, 64, 10)
NODE = "/api/node/a89eb3af216a46cdba81204d8f954786"

server_of = Dvid(
    (
        Instance(name="grayscale", voxels=VOLUME),
        Instance(name="shifted", voxels=VOLUME, origin=ORIGIN),
        Instance(name="holes", voxels=VOLUME, absent=frozenset({(1, 0, 0)})),
        Instance(name="jpeg", voxels=VOLUME, stored="jpeg"),
        Instance(name="proxied", voxels=VOLUME, grid_store="hemibrain"),
        Instance(name="labels", voxels=Labels(shape=(70, 130, 200))),
    )
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server("dvid", server_of, refuse=refuse) as server:
        yield server.url


def bytes_at(url: str) -> bytes:
    response = requests.get(url, timeout=10)
    assert response.status_code == 200, response.text
    return response.content


def stream(url: str) -> dict[tuple[int, int, int], bytes]:
    """Blocks of a stream by their place x, y, z."""
    content, at, found = bytes_at(url), 0, {}
    while at < len(content):
        x, y, z, length = struct.unpack_from("<4i", content, at)
        found[x, y, z] = content[at + 16 : at + 16 + length]
        at += 16 + length
    return found


def test_the_information_has_the_shape_of_hemibrains(url: str) -> None:
    found = requests.get(f"{url}{NODE}/shifted/info", timeout=10).json()
    assert list(found) == ["Base", "Extended", "Extents"]
    assert found["Base"]["TypeName"] == "uint8blk"
    assert found["Base"]["Compression"] == "LZ4 compression, level -1"
    assert found["Extended"]["BlockSize"] == [64, 64, 64]
    assert found["Extended"]["VoxelSize"] == [8, 8, 8]
    assert found["Extents"] == {"MinPoint": [10, 64, 5], "MaxPoint": [209, 193, 74]}
    assert found["Extended"]["MaxIndex"] == [3, 3, 1]
    assert found["Extended"]["Values"] == [{"DataType": "uint8", "Label": "uint8"}]


def test_the_repository_is_found_by_the_beginning_of_its_uuid(url: str) -> None:
    repos = requests.get(f"{url}/api/repos/info", timeout=10).json()
    (root,) = repos
    repo = requests.get(f"{url}/api/repo/a89eb/info", timeout=10).json()
    assert repo == repos[root]
    assert set(repo["DataInstances"]) == set(server_of.instances)
    assert repo["DAG"]["Nodes"][root]["Locked"]
    assert requests.head(f"{url}/api/repo/a89", timeout=10).status_code == 200
    assert requests.head(f"{url}/api/repo/b00", timeout=10).status_code == 400
    server = requests.get(f"{url}/api/server/info", timeout=10).json()
    assert server["Mode"] == "read only"


def test_raw_is_the_box_with_x_fastest_and_background_outside(url: str) -> None:
    content = bytes_at(f"{url}{NODE}/grayscale/raw/0_1_2/30_20_10/100_50_40")
    assert content == GREY[40:50, 50:70, 100:130].tobytes()
    content = bytes_at(f"{url}{NODE}/shifted/raw/0_1_2/20_4_8/-5_62_3?throttle=true")
    truth = np.zeros((8, 4, 20), np.uint8)
    truth[2:, 2:, 15:] = GREY[:6, :2, :5]
    assert content == truth.tobytes()


def test_planes_come_as_pictures(url: str) -> None:
    png = bytes_at(f"{url}{NODE}/grayscale/raw/xz/30_20/100_50_40")
    assert np.array_equal(imagecodecs.png_decode(png), GREY[40:60, 50, 100:130])
    jpeg = bytes_at(f"{url}{NODE}/grayscale/raw/0_1/64_32/10_20_30/jpg:90")
    shown = imagecodecs.jpeg_decode(jpeg).astype(int)
    assert abs(shown - GREY[30, 20:52, 10:74]).mean() < 4


def test_blocks_are_streamed_and_those_never_written_are_left_out(url: str) -> None:
    query = "compression=uncompressed"
    found = stream(f"{url}{NODE}/holes/subvolblocks/192_64_64/0_0_0?{query}")
    assert set(found) == {(0, 0, 0), (2, 0, 0)}
    assert found[2, 0, 0] == GREY[:64, :64, 128:192].tobytes()
    query = "blocks=0,1,1,1,0,0,9,9,9&compression=uncompressed"
    found = stream(f"{url}{NODE}/holes/specificblocks?{query}")
    assert set(found) == {(0, 1, 1)}
    edge = np.zeros((64, 64, 64), np.uint8)
    edge[:6] = GREY[64:, 64:128, :64]
    assert found[0, 1, 1] == edge.tobytes()
    prefetched = f"{url}{NODE}/holes/specificblocks?blocks=0,1,1&prefetch=on"
    assert bytes_at(prefetched) == b""
    row = bytes_at(f"{url}{NODE}/grayscale/blocks/1_0_0/2")
    assert row[64**3 :] == GREY[:64, :64, 128:192].tobytes()


def test_blocks_kept_as_jpeg_come_so_or_unpacked(url: str) -> None:
    at = f"{url}{NODE}/jpeg/subvolblocks/64_64_64/64_0_0"
    (packed,) = stream(at).values()
    (plain,) = stream(f"{at}?compression=uncompressed").values()
    picture = imagecodecs.jpeg_decode(packed)
    assert picture.shape == (64 * 64, 64)
    assert picture.tobytes() == plain
    assert plain == bytes_at(f"{url}{NODE}/jpeg/raw/0_1_2/64_64_64/64_0_0")


def test_a_proxied_volume_has_chunks_that_end_with_it(url: str) -> None:
    at = f"{url}{NODE}/proxied/subvolblocks/64_64_64/192_128_64"
    (plain,) = stream(f"{at}?compression=uncompressed").values()
    assert len(plain) == 8 * 2 * 6


def test_labels_come_as_blocks_of_labels(url: str) -> None:
    truth = Labels(shape=(70, 130, 200)).read((0, 0, 0), (64, 64, 64))
    at = f"{url}{NODE}/labels/blocks/64_64_64/0_0_0"
    (plain,) = stream(f"{at}?compression=uncompressed").values()
    assert plain == truth.astype("<u8").tobytes()
    (packed,) = stream(f"{at}?compression=gzip").values()
    assert gzip.decompress(packed) == plain
    (native,) = stream(at).values()
    gx, gy, gz, count = struct.unpack_from("<4I", gzip.decompress(native))
    assert (gx, gy, gz, count) == (8, 8, 8, len(np.unique(truth)))
    raw = bytes_at(f"{url}{NODE}/labels/raw/0_1_2/3_2_1/7_8_9?compression=gzip")
    assert gzip.decompress(raw) == truth[9:10, 8:10, 7:10].tobytes()


def test_a_block_of_labels_is_as_long_as_the_one_that_dvid_wrote(
    shared_data: Path,
) -> None:
    stored = shared_data / "dvid/fib19-64x64x64-sample1-block.dat.gz"
    written = to_label_block(fib19())
    real = gzip.decompress(stored.read_bytes())
    # DVID lists labels as it meets them, the stand-in by value; all else is as long.
    assert len(written) == len(real)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("grayscale/raw/0_1_2/1_1", "must be followed by shape/size/offset"),
        ("grayscale/raw/0_1_2/a_1_1/0_0_0", "invalid syntax"),
        ("grayscale/raw/0_1_2/2048_2048_769/0_0_0", "exceeds this DVID server's set"),
        ("grayscale/subvolblocks/64_64_64/0_0_1", "non-block aligned geometry"),
        ("grayscale/subvolblocks/64_64_64/0_0_0?compression=jpeg", "can't encode JPEG"),
        ("grayscale/specificblocks?blocks=1,2", "three coordinates per block"),
        ("grayscale/specificblocks?compression=zip", "don't understand 'compression'"),
        ("proxied/raw/0_1_2/8_8_8/0_0_0", "does not support /raw endpoint since it is"),
        ("nothing/info", "invalid data instance name"),
        ("labels/subvolblocks/64_64_64/0_0_0", "Unknown API endpoint"),
    ],
)
def test_what_makes_no_sense_is_refused_in_dvids_words(
    url: str, path: str, words: str
) -> None:
    response = requests.get(f"{url}{NODE}/{path}", timeout=10)
    assert response.status_code == 400
    assert words in response.text
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    place = path.partition("?")[0]
    assert response.text.endswith(f"({NODE}/{place}).\n")


def test_nothing_can_be_written(url: str) -> None:
    response = requests.post(f"{url}{NODE}/grayscale/raw/0_1_2/1_1_1/0_0_0", timeout=10)
    assert response.status_code == 400
    assert "read-only" in response.text


def test_throttled_requests_wait_for_their_turn_and_others_do_not(url: str) -> None:
    at = f"{url}{NODE}/grayscale/raw/0_1_2/8_8_8/0_0_0"
    with server_of.throttled():
        busy = requests.get(f"{at}?throttle=true", timeout=10)
        assert busy.status_code == 503
        assert busy.text.startswith(
            "Server already running 1 throttled operations (max = 1)"
        )
        assert requests.get(at, timeout=10).status_code == 200
    assert requests.get(f"{at}?throttle=true", timeout=10).status_code == 200
