"""What goes wrong at a source: one sentence, one record, nothing else harmed.

One command meets many faults at once, each at an item of its own. Then they are gone,
and a second command brings what was missing, bit by bit, and no finished part again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.standins.faults import Fault, Logged
from em_platform.standins.world import World, running_world
from tests.system.ingesting import Command, asked_again, finished_parts

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

GET = ("GET",)
COSEM = "jrc_mus-nacc-2.recon-2.em.fibsem-int16"
HELA = "jrc_hela-2.em.fibsem-uint16"
FAST = {
    "EM_INGEST__TRANSFER__RETRIES": "2",
    "EM_INGEST__TRANSFER__BACKOFF_S": "0.01",
    "EM_INGEST__TRANSFER__TIMEOUT_S": "4",
    "EM_INGEST__TRANSFER__PART_MB": "0.02",
    "EM_INGEST__FLYEM__NEUPRINT_TOKEN": "",
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "4",
    **{
        f"EM_INGEST__{source}__REQUESTS_PER_SECOND": "1000"
        for source in ("EBI", "EPFL", "FLYEM", "IDR", "OPENORGANELLE")
    },
}


@dataclass(frozen=True)
class Case:
    """An item, what happens to it, and words of the sentence that tells it.

    Without words the item is complete in spite of its fault. `again` is the part of
    the paths of which the bytes are to come anew, as the file is another one then.
    """

    item: str
    faults: tuple[Fault, ...] = ()
    words: tuple[str, ...] = ()
    again: str = "nothing"
    warning: str = ""

    @property
    def source(self) -> str:
        return self.item.partition("/")[0]

    @property
    def key(self) -> str:
        return self.item.partition("/")[2]


CASES = (
    Case("epfl/training"),
    Case("idr/9846127"),
    Case("flyem/64_0_64_64_72_100"),
    Case("openorganelle/jrc_mus-nacc-2.recon-2.labels.groundtruth.crop155.mito.s0"),
    Case(
        "epfl/testing_groundtruth",
        (Fault("status", "*/testing_groundtruth.tif", methods=GET, skip=4),),
        ("testing_groundtruth.tif answered 503", "at the last of 3 tries", "are kept"),
    ),
    Case("epfl/testing", (Fault("status", "*/testing.tif", methods=GET, times=2),)),
    Case(
        "ebi/99002",
        (Fault("status", "*/section_005.tif", methods=GET, status=404),),
        ("section_005.tif answered 404", "check the item's key", "ingest.ebi"),
    ),
    Case(
        "ebi/99003",
        (Fault("status", "*/medulla.dm4", methods=GET, status=401),),
        ("medulla.dm4 answered 401", "give its token", "ingest.ebi"),
    ),
    Case(
        "ebi/99001",
        (Fault("cut", "*/99001/data/medulla.mrc", after_bytes=0, skip=9),),
        ("medulla.mrc did not serve", "at the last of 3 tries", "are kept"),
    ),
    Case("idr/9846137", (Fault("cut", "*U2OS_20x20x20nm_xy.tif", times=1),)),
    Case(
        "ebi/99002.2",
        (Fault("wrong_length", "*/99002/data/volume/medulla.mrc"),),
        ("volume/medulla.mrc did not serve", "at the last of 3 tries"),
        again="medulla.mrc",
    ),
    Case("epfl/training_groundtruth", (Fault("no_range", "*/training_g*.tif"),)),
    Case(
        "ebi/11759",
        (Fault("truncate", "*slice_0007.dm3"),),
        ("slice_0007.dm3: truncated DM file, found 62997 bytes", "copy it again"),
        again="slice_0007.dm3",
    ),
    Case(
        "epfl/volumedata",
        (
            Fault("changed_etag", "*/volumedata.tif", methods=GET, skip=5, times=1),
            # Never in the same round: it has 42 parts, and several are under way.
            Fault("changed_etag", "*/volumedata.tif", methods=GET, skip=42, times=1),
        ),
        ("volumedata.tif changed twice", "its ETag was", "run again"),
    ),
    Case(
        "idr/9846138",
        (Fault("hang", "*U2OS_20x20x20nm_xz.tif", methods=GET, skip=1),),
        ("_xz.tif did not serve (no answer in time)", "at the last of 3 tries"),
    ),
    Case(
        "idr/9846126",
        (Fault("status", "/api/v0/m/images/9846126*", status=500),),
        ("images/9846126/ answered 500", "wait until the service is well"),
    ),
    Case(
        "flyem/0_0_0_64_64_64",
        (Fault("status", "*/0_1_2/64_64_64/0_0_0"),),
        ("0_0_0?throttle=true answered 503", "at the last of 3 tries"),
    ),
    Case(
        "flyem/0_0_64_64_64_64",
        (Fault("cut", "*/0_1_2/64_64_64/64_0_0"),),
        ("64_64_64/64_0_0", "did not serve", "at the last of 3 tries"),
    ),
    Case(
        f"openorganelle/{COSEM}.s1",
        (Fault("missing", "*/fibsem-int16/s1/1/*"),),
        warning="9 of 18 chunks are missing at the source; readers see its fill value",
    ),
    Case(
        f"openorganelle/{COSEM}.s2",
        (Fault("corrupt", "*/fibsem-int16/s2/0*"),),
        (
            "fibsem-int16/s2/0",
            "came with other bytes than the md5 that its server states",
            "try again later",
        ),
    ),
    Case(
        f"openorganelle/{COSEM}.s3",
        (Fault("status", "*/fibsem-int16/s3/[0-9]*"),),
        ("fibsem-int16/s3/0/0/0 is not served (503", "try again later"),
    ),
    Case(
        f"openorganelle/{COSEM}.s4",
        (Fault("hang", "*/fibsem-int16/s4/[0-9]*", methods=GET),),
        ("fibsem-int16/s4 is not served", "Timeout was reached"),
    ),
    Case(f"openorganelle/{HELA}.s0", (Fault("cut", "*-uint16/s0/[0-9]*", times=1),)),
    Case(
        f"openorganelle/{HELA}.s1",
        (Fault("missing", "*/fibsem-uint16/s1/attributes.json"),),
        ("fibsem-uint16/s1", "expected an array; correct the key"),
    ),
)
ITEMS = {
    source: tuple(case.key for case in CASES if case.source == source)
    for source in ("ebi", "epfl", "flyem", "idr", "openorganelle")
}


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of the worlds lie, made by the first test."""
    return tmp_path_factory.mktemp("world")


@pytest.fixture
def world(made_once: Path) -> Iterator[World]:
    with running_world(made_once) as running:
        yield running


@pytest.fixture
def command(world: World, tmp_path: Path) -> Command:
    return Command(world, tmp_path / "home", **FAST)


def test_each_fault_is_reported_and_recorded_and_harms_no_other_item(
    world: World, command: Command
) -> None:
    world.faults.add(*(fault for case in CASES for fault in case.faults))
    status, report = command.run("--mode=parallel", items=ITEMS)
    assert status == 1
    outcomes = {f"{o['source']}/{o['key']}": o for o in report["outcomes"]}
    assert outcomes.keys() == {case.item for case in CASES}
    for case in CASES:
        _check_told(case, outcomes[case.item], command, world)
    failed = sum(bool(case.words) for case in CASES)
    summary = command.catalog()["summary"]
    assert summary["validation_errors"] == report["invalid_records"] == 0
    whole = {"complete": len(CASES) - failed, "failed": failed}
    assert summary["by_status"] == whole

    held = {
        case: finished_parts(command.home / "raw" / case.item)
        for case in CASES
        if case.source in ("ebi", "epfl", "idr")
    }
    assert sum(map(len, held.values())) > 50
    world.faults.clear()
    before = len(world.requests.all())
    status, report = command.run("--mode=parallel", items=ITEMS)
    assert status == 0, report
    asked = world.requests.all()[before:]
    for case in CASES:
        voxels = command.voxels(case.source, case.key)
        assert np.array_equal(voxels, world.truth(case.source, case.key)), case.item
        record = command.record(case.source, case.key)
        assert record["status"] == "complete"
        tries = record.get("error", {}).get("retry_count", 0)
        assert tries == bool(case.words), case.item
        finished = {part for part in held.get(case, ()) if case.again not in part[0]}
        assert asked_again(finished, _of(case, asked)) == []
    assert command.catalog()["summary"]["by_status"] == {"complete": len(CASES)}


def _check_told(
    case: Case, outcome: dict[str, Any], command: Command, world: World
) -> None:
    """What the person sees, and what is recorded."""
    record = command.record(case.source, case.key)
    if case.words:
        sentence = outcome["sentence"]
        assert (outcome["status"], record["status"]) == ("failed", "failed"), case.item
        assert [word for word in case.words if word not in sentence] == [], sentence
        assert "\n" not in sentence
        assert "Traceback" not in sentence
        assert record["error"]["message"] == sentence
        assert record["error"]["retry_count"] == 0
        assert sentence in record["error"]["traceback"]
        return
    assert (outcome["status"], record["status"]) == ("complete", "complete"), outcome
    assert outcome["failed_checks"] == []
    assert record.get("error") is None
    truth = world.truth(case.source, case.key)
    if case.warning:
        truth[32:64] = 0  # the array's fill value
        assert any(case.warning in warning for warning in outcome["warnings"])
        quality = record["metadata"]["quality"]
        assert quality["completeness_score"] == 0.5
    assert np.array_equal(command.voxels(case.source, case.key), truth), case.item


def _of(case: Case, asked: list[Logged]) -> list[Logged]:
    """The requests for files of this item."""
    folder = f"/{case.key.partition('.')[0]}/" if case.source == "ebi" else ""
    return [each for each in asked if folder in each.path]
