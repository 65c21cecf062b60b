"""Voxels of a DVID server come as they are there, or not at all with one sentence."""

import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.config import SourceSettings, TransferSettings
from em_platform.errors import FormatError, SourceRefused, SourceUnavailable
from em_platform.ingest.dvid import Dvid
from em_platform.ingest.dvid_instance import aligned, parse_info, parse_version, parts
from em_platform.ingest.flyem_volumes import dvid_volume
from em_platform.ingest.web import Web
from em_platform.standins import dvid as standin
from em_platform.standins.dvid_instance import Instance, refuse
from em_platform.standins.faults import Fault
from em_platform.standins.flyem import Labels
from em_platform.standins.http import Server
from em_platform.standins.pixels import Pixels

SHAPE = (150, 190, 230)
ORIGIN = (0, 64, 20)
VOLUME = Pixels(shape=SHAPE, variant=4)
GREY = VOLUME.whole()
LABELS = Labels(shape=SHAPE)
CORNER = (30, 70, 100)
CROP = (100, 90, 110)
"""Not aligned, and larger than a block in every direction."""

TRUTH = GREY[30:130, 6:96, 80:190]
LABEL_TRUTH = LABELS.read((30, 6, 80), CROP)


@dataclass
class Served:
    server: Server
    handler: standin.Dvid

    def dvid(self, name: str, **other: Any) -> Dvid:
        return Dvid(web=web(), url=self.server.url, uuid="a89eb", name=name, **other)

    def bytes_asked(self) -> int:
        return sum(each.bytes_sent for each in self.server.requests.all())


def web(retries: int = 2) -> Web:
    limits = SourceSettings(requests_at_once=2, requests_per_second=1e6)
    transfer = TransferSettings(retries=retries, backoff_s=0.01, timeout_s=5)
    return Web("flyem", limits, transfer)


@pytest.fixture(scope="module")
def handler() -> standin.Dvid:
    """One for all tests, because it remembers how labels are packed."""
    return standin.Dvid(
        (
            Instance(name="grayscale", voxels=VOLUME, origin=ORIGIN),
            Instance(name="jpeg", voxels=VOLUME, origin=ORIGIN, stored="jpeg"),
            Instance(name="proxied", voxels=VOLUME, grid_store="hemibrain"),
            Instance(name="labels", voxels=LABELS, origin=ORIGIN),
            Instance(
                name="holes",
                voxels=VOLUME,
                origin=ORIGIN,
                absent=frozenset({(2, 1, 1), (2, 2, 1)}),
                background=127,
            ),
        )
    )


@pytest.fixture
def served(handler: standin.Dvid) -> Iterator[Served]:
    with Server("dvid", handler, refuse=refuse) as server:
        yield Served(server, handler)


def crop_of(
    served: Served, name: str, *, way: str = "raw", most_raw_bytes: int = 3 << 30
) -> NDArray[Any]:
    dvid = served.dvid(name)
    volume = dvid_volume(
        dvid,
        dvid.instance(),
        crop=(CORNER, CROP),
        way=way,
        most_raw_bytes=most_raw_bytes,
    )
    volume = pickle.loads(pickle.dumps(volume))
    return volume.read((slice(None), slice(None), slice(None)))


def test_bounds_sizes_and_blocks_are_reported_as_z_y_x(served: Served) -> None:
    instance = served.dvid("grayscale").instance()
    assert instance.low == ORIGIN
    assert instance.high == (150, 254, 250)
    assert instance.shape == SHAPE
    assert instance.block_shape == (64, 64, 64)
    assert instance.voxel_size_nm == (8.0, 8.0, 8.0)
    assert (instance.dtype, instance.jpeg, instance.proxied) == ("uint8", False, False)
    assert instance.holds((0, 64, 20), SHAPE)
    assert not instance.holds((0, 64, 20), (151, 1, 1))
    assert not instance.holds((0, 63, 20), (1, 1, 1))
    assert served.dvid("labels").instance().is_labels
    assert served.dvid("jpeg").instance().jpeg
    assert served.dvid("proxied").instance().proxied


def test_the_recorded_information_of_hemibrain_is_understood() -> None:
    # As the run of 2025-06-11 of the source project's loader logged it.
    extents = {"MinPoint": [0, 0, 0], "MaxPoint": [34431, 39724, 41407]}
    info = {
        "Base": {
            "TypeName": "uint8blk",
            "Name": "grayscale",
            "Compression": "LZ4 compression, level -1",
        },
        "Extended": {
            "Values": [{"DataType": "uint8", "Label": "uint8"}],
            "BlockSize": [64, 64, 64],
            "VoxelSize": [8, 8, 8],
            "VoxelUnits": ["nanometers", "nanometers", "nanometers"],
            **extents,
            "MinIndex": [0, 0, 0],
            "MaxIndex": [537, 620, 646],
            "GridStore": "",
        },
        "Extents": extents,
    }
    instance = parse_info(info, who="flyem", url="/info")
    assert instance.shape == (41408, 39725, 34432)
    assert instance.voxel_size_nm == (8.0, 8.0, 8.0)


@pytest.mark.parametrize("way", ["raw", "subvolblocks", "specificblocks"])
def test_a_crop_is_bit_by_bit_what_the_server_holds(served: Served, way: str) -> None:
    found = crop_of(served, "grayscale", way=way)
    assert found.dtype == np.uint8
    assert np.array_equal(found, TRUTH)


@pytest.mark.parametrize("way", ["raw", "subvolblocks", "specificblocks"])
def test_labels_keep_all_their_64_bits(served: Served, way: str) -> None:
    found = crop_of(served, "labels", way=way)
    assert found.dtype == np.uint64
    assert np.array_equal(found, LABEL_TRUTH)
    assert served.bytes_asked() < found.nbytes / 10


@pytest.mark.parametrize("way", ["subvolblocks", "specificblocks"])
def test_blocks_kept_as_jpeg_come_as_jpeg(served: Served, way: str) -> None:
    kept = crop_of(served, "jpeg", way="raw")
    before = served.bytes_asked()
    found = crop_of(served, "jpeg", way=way)
    assert np.array_equal(found, kept)
    assert abs(found.astype(int) - TRUTH).mean() < 5
    assert served.bytes_asked() - before < found.nbytes * 64**3 / 60**3


def test_a_proxied_volume_is_read_to_its_last_voxel(served: Served) -> None:
    dvid = served.dvid("proxied")
    corner, shape = (100, 120, 180), (50, 70, 50)
    found, absent = dvid.subvolblocks(dvid.instance(), (corner, shape))
    assert absent == ()
    assert abs(found.astype(int) - GREY[100:, 120:, 180:]).mean() < 5
    with pytest.raises(SourceRefused, match="proxying data"):
        dvid.raw(dvid.instance(), (corner, shape))


def test_a_region_asks_for_exactly_its_voxels(served: Served) -> None:
    dvid = served.dvid("grayscale")
    volume = dvid_volume(
        dvid,
        dvid.instance(),
        crop=(CORNER, CROP),
        way="raw",
        most_raw_bytes=3 << 30,
    )
    served.server.requests.clear()
    found = volume.read((slice(2, 5), slice(0, 7), slice(100, 200)))
    assert np.array_equal(found, TRUTH[2:5, :7, 100:])
    (asked,) = served.server.requests.all()
    assert asked.path.endswith("/raw/0_1_2/10_7_3/200_70_32")
    assert asked.query == "throttle=true"
    assert asked.bytes_sent == 3 * 7 * 10
    assert volume.read((slice(0, 0), slice(None), slice(None))).shape == (0, 90, 110)
    assert volume.info.origin_nm == (240.0, 560.0, 800.0)


def test_a_large_box_is_asked_for_in_parts_that_end_at_blocks(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.handler, "most_bytes", 300_000)
    with pytest.raises(SourceRefused, match=r"exceeds this DVID server's set limit"):
        crop_of(served, "grayscale")
    found = crop_of(served, "grayscale", most_raw_bytes=300_000)
    assert np.array_equal(found, TRUTH)


@pytest.mark.parametrize("most", [1, 1000, 64**3, 5 * 64**3, 10**9])
def test_parts_cover_the_box_once_and_cut_no_block_needlessly(most: int) -> None:
    box = ((30, 70, 101), (70, 60, 90))
    if most == 1:
        box = ((3, 4, 5), (3, 2, 4))
    covered = np.zeros(box[1], int)
    for corner, shape in parts(box, block=(64, 64, 64), most_voxels=most):
        assert np.prod(shape) <= most
        z, y, x = (
            slice(c - o, c - o + n)
            for c, o, n in zip(corner, box[0], shape, strict=True)
        )
        covered[z, y, x] += 1
        if most >= 64**3:
            for c, n, o, m in zip(corner, shape, *box, strict=True):
                assert c == o or c % 64 == 0
                assert c + n == o + m or (c + n) % 64 == 0
    assert (covered == 1).all()


def test_the_blocks_around_a_box_are_those_that_it_touches() -> None:
    box = ((63, 64, 65), (2, 64, 63))
    assert aligned(box, (64, 64, 64)) == ((0, 64, 64), (128, 64, 64))


@pytest.mark.parametrize("way", ["subvolblocks", "specificblocks"])
def test_absent_blocks_are_background_and_are_named(served: Served, way: str) -> None:
    dvid = served.dvid("holes")
    instance = dvid.instance()
    read: Callable[..., Any] = getattr(dvid, way)
    found, absent = read(instance, (CORNER, CROP))
    assert absent == ((1, 1, 2), (1, 2, 2))
    raw = dvid.raw(instance, (CORNER, CROP))
    assert np.array_equal(found, raw)
    hole = found[64 - 30 : 128 - 30, :, 128 - 100 : 192 - 100]
    assert (hole[:, : 192 - 70] == 127).all()


def test_a_server_that_fails_is_asked_again_and_then_given_up(served: Served) -> None:
    fault = Fault(kind="status", path="*/raw/*", times=2, retry_after_s=0.01)
    served.server.faults.add(fault)
    assert np.array_equal(crop_of(served, "grayscale"), TRUTH)
    served.server.faults.add(Fault(kind="status", path="*/raw/*"))
    served.server.requests.clear()
    with pytest.raises(SourceUnavailable, match="at the last of 3 tries"):
        crop_of(served, "grayscale")
    assert served.server.requests.count(lambda each: each.status == 503) == 3


def test_a_server_that_is_just_busy_is_waited_for(served: Served) -> None:
    dvid = served.dvid("grayscale")
    instance = dvid.instance()
    busy = served.handler.throttled()
    busy.__enter__()
    leaves = threading.Timer(0.3, busy.__exit__, (None, None, None))
    leaves.start()
    assert np.array_equal(dvid.raw(instance, (CORNER, CROP)), TRUTH)
    leaves.join()
    assert served.server.requests.count(lambda each: each.status == 503) > 3


def test_a_server_that_stays_busy_is_given_up_in_its_own_words(served: Served) -> None:
    dvid = served.dvid("grayscale")
    instance = dvid.instance()
    with served.handler.throttled(), pytest.raises(SourceUnavailable) as caught:
        dvid.raw(instance, (CORNER, CROP))
    assert "Server already running 1 throttled operations (max = 1)" in str(
        caught.value
    )
    assert served.server.requests.count(lambda each: each.status == 503) == 20 * 3
    patient = served.dvid("grayscale", throttle=False)
    with served.handler.throttled():
        assert np.array_equal(patient.raw(instance, (CORNER, CROP)), TRUTH)


@pytest.mark.parametrize(
    ("name", "way", "fault", "words"),
    [
        ("grayscale", "raw", Fault("truncate"), "742500 bytes came instead of 990000"),
        ("grayscale", "raw", Fault("cut"), "did not serve"),
        ("grayscale", "raw", Fault("wrong_length"), "did not serve"),
        ("labels", "raw", Fault("truncate"), "gzip ends too early"),
        ("labels", "raw", Fault("corrupt"), "gzip is damaged"),
        ("grayscale", "subvolblocks", Fault("truncate"), "states 262144 bytes"),
        ("grayscale", "specificblocks", Fault("truncate", after_bytes=7), "in a head"),
        ("labels", "subvolblocks", Fault("corrupt"), "block"),
        ("jpeg", "subvolblocks", Fault("corrupt"), "block"),
    ],
)
def test_what_comes_broken_is_asked_for_again_and_never_kept(
    served: Served, name: str, way: str, fault: Fault, words: str
) -> None:
    from dataclasses import replace

    path = f"*/{name}/[rsb]*"
    served.server.faults.add(replace(fault, path=path, times=1))
    good = crop_of(served, name, way=way)
    served.server.faults.clear()
    assert np.array_equal(good, crop_of(served, name, way=way))
    served.server.faults.add(replace(fault, path=path))
    with pytest.raises(SourceUnavailable) as caught:
        crop_of(served, name, way=way)
    sentence = str(caught.value)
    assert sentence.startswith(f"flyem: {served.server.url}/api/node/a89eb/{name}/")
    assert words in sentence


def test_all_readers_in_one_process_share_a_pace(served: Served) -> None:
    packed = pickle.dumps(served.dvid("grayscale"))
    one, other = pickle.loads(packed), pickle.loads(packed)
    assert one.web is other.web


def test_an_instance_that_is_not_there_is_refused(served: Served) -> None:
    with pytest.raises(SourceRefused, match="invalid data instance name"):
        served.dvid("nothing").instance()
    with pytest.raises(SourceRefused, match="could not find UUID"):
        Dvid(web=web(), url=served.server.url, uuid="b", name="grayscale").instance()


@pytest.mark.parametrize(
    "info",
    [{}, [], {"Base": {}}, {"Base": {}, "Extended": {"Values": [{}, {}, {}, {}]}}],
)
def test_other_answers_are_reported(info: Any) -> None:
    with pytest.raises(FormatError, match="tells of no volume of voxels"):
        parse_info(info, who="flyem", url="/info")


def test_a_version_is_reported_in_full_and_whether_it_may_change(
    served: Served,
) -> None:
    version = served.dvid("grayscale").version()
    assert version.uuid == standin.HEMIBRAIN_UUID
    assert version.alias == "hemibrain"
    assert version.locked
    with pytest.raises(FormatError, match="does not tell of version b00"):
        parse_version({"DAG": {"Nodes": {}}}, "b00", who="flyem", url="/info")
