"""The fault table: what each fault of the microscope costs, and what is seen of it.

Every test images a small montage of real processes and breaks something meanwhile. It
asserts that nothing was lost and that the operator's page showed what was wrong, and
measures how long the work stood still. The table is printed at the end; it is also
written to the file that EM_FAULT_TABLE names.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.coordinator.requirements import free_bytes
from em_platform.acquisition.frame_paths import acquisition_of
from em_platform.messaging.bus import Bus
from em_platform.simulation.devices.commanded import set_faults
from em_platform.storage import layout, store_of

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

BALLAST = 1_000_000_000
STALE_S = 2.0
"""The page shows as old what was silent for longer, see the rig's settings."""


def longest_rest_s(microscope: Any, montage_id: str) -> float:
    """Between two tiles of a montage."""
    times: list[float] = microscope.imaged(montage_id)
    return max(later - earlier for earlier, later in pairwise(times))


def test_the_broker_is_killed_and_away_for_three_seconds(microscope: Any) -> None:
    with microscope.watched() as seen:
        montage_id = microscope.start()
        microscope.wait_imaged(montage_id, 4)
        with microscope.away("broker"):
            killed_at = time.time()
            time.sleep(3)
            shown = microscope.page()
        verified_s = microscope.wait_uploaded(montage_id) - killed_at
        microscope.wait(lambda: microscope.page()["parts"]["broker"]["connected"])
    assert not shown["parts"]["broker"]["connected"]
    assert "does not answer" in seen.sentence("The broker at")
    assert seen.broker == [True, False, True]
    assert min(seen.silent_s[name] for name in ("state", "qc", "buffer")) > STALE_S
    assert set(seen.lights) <= {"GOOD", ""}
    assert microscope.page()["parts"]["montage"]["state"] == "completed"
    assert len(microscope.page()["map"]["tiles"]) == 12
    microscope.row(
        "broker `kill -9`, away 3 s, amid a montage",
        microscope.nothing_is_lost(montage_id, heard_all=False),
        f"“{seen.sentence('The broker at').rpartition(' at ')[0]} … does not answer”, "
        "then “… is back”; the map keeps its tiles and fills up",
        longest_rest_s(microscope, montage_id),
        f"between two tiles; all verified {verified_s:.0f} s after the kill",
    )


def test_a_pipeline_process_is_killed_amid_a_tile(microscope: Any) -> None:
    victim = microscope.pid("pipeline-1")
    query = "SELECT key, state FROM tiles WHERE worker LIKE ?"

    def held() -> list[Any]:
        return list(microscope.journal("pipeline", query, f"%|{victim}|%"))

    with microscope.watched() as seen:
        montage_id = microscope.start()
        microscope.wait_imaged(montage_id, 3)
        # Stopped first, so that it is certain what it holds when it ends.
        stopped_while(victim, held)
        ((key, _),) = held()
        os.kill(victim, signal.SIGKILL)
        killed_at = time.time()
        microscope.wait(lambda: microscope.worked_on(key).get(key) == "done")
        again_s = time.time() - killed_at
        microscope.wait_uploaded(montage_id)
    assert microscope.pid("pipeline-1") != victim
    assert set(seen.lights) <= {"GOOD", ""}
    assert "error" not in seen.montage
    microscope.row(
        "pipeline process `kill -9` amid a tile",
        microscope.nothing_is_lost(montage_id),
        f"nothing but one tile that is late; light {seen.lights[-1]}, no stop",
        again_s,
        "until its tile was done by the other process",
    )


def stopped_while(pid: int, truth: Callable[[], object]) -> None:
    """Stop a process (SIGSTOP) at a moment when something is so, and stays so."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if truth():
            os.kill(pid, signal.SIGSTOP)
            if truth():
                return
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.001)
    raise AssertionError("the process was never caught")


def test_the_camera_does_not_answer(microscope: Any) -> None:
    with microscope.watched() as seen:
        montage_id = microscope.start()
        microscope.wait_imaged(montage_id, 3)
        set_faults(microscope.home, {"camera_timeout_frames": 1})
        microscope.wait_imaged(montage_id, 5)
        once_s = longest_rest_s(microscope, montage_id)
        assert "failed" not in seen.modes
        set_faults(microscope.home, {"camera_timeout_frames": 2})
        microscope.wait(lambda: "failed" in seen.modes and "error" in seen.montage)
        left_at = time.time()
        microscope.press("retry")
        microscope.wait_uploaded(montage_id)
    failed_s = longest_rest_s(microscope, montage_id)
    sentence = seen.sentence("camera.command")
    assert "was not answered by camera.image" in sentence
    assert seen.montage[-1] == "completed"
    lost = microscope.nothing_is_lost(montage_id)
    microscope.row(
        "camera: one frame times out",
        lost,
        "nothing but a longer cycle; it is asked again by itself",
        once_s,
        "between two tiles (time limit 2.5 s)",
    )
    resumed = next(at for at in microscope.imaged(montage_id) if at > left_at)
    assert failed_s > once_s
    microscope.row(
        "camera: more frames time out than tries",
        lost,
        f"state Failure, montage error: “{cut(sentence)}”; Retry",
        resumed - left_at,
        "from Retry to the next tile",
    )


def cut(sentence: str) -> str:
    """As much of a sentence as a table can show."""
    plain = sentence.replace("|", "/").replace("\n", " ")
    return plain if len(plain) < 170 else f"{plain[:165]}…"


def test_the_stage_is_stuck(microscope: Any) -> None:
    with microscope.watched() as seen:
        montage_id = microscope.start()
        microscope.wait_imaged(montage_id, 4)
        set_faults(microscope.home, {"stage_stuck": 1})
        microscope.wait(lambda: "failed" in seen.modes)
        imaged = len(microscope.imaged(montage_id))
        set_faults(microscope.home, {"stage_stuck": 0})
        freed_at = time.time()
        microscope.press("retry")
        microscope.wait_uploaded(montage_id)
    sentence = seen.sentence("stage.motion.command")
    assert "was not answered by stage.motion.status in 2 tries" in sentence
    assert seen.montage[-1] == "completed"
    microscope.row(
        "stage stuck",
        microscope.nothing_is_lost(montage_id),
        f"state Failure, montage error: “{cut(sentence)}”; Retry",
        microscope.imaged(montage_id)[imaged] - freed_at,
        "from freeing it and Retry to the next tile",
    )


def test_aloha_refuses_the_token(microscope: Any) -> None:
    with microscope.watched() as seen:
        with microscope.instead("aloha", {"aloha.token": "another one"}):
            montage_id = microscope.start()
            microscope.wait(lambda: any("HTTP 401" in each for each in seen.uploads))
            microscope.wait(lambda: seen.montage[-1] == "completed")
            assert not microscope.is_uploaded(montage_id)
            assert all_frames(microscope, montage_id)
            left_at = time.time()
        seconds = microscope.wait_uploaded(montage_id) - left_at
        microscope.wait(lambda: seen.uploads[-1] == "")
    assert seen.to_upload >= 12
    assert "HTTP 401" in seen.sentence("The upload waits")
    assert seen.sentence("The upload continues")
    assert "error" not in seen.montage
    (sentence,) = {each for each in seen.uploads if "HTTP 401" in each}
    microscope.row(
        "aloha refuses (another token, 401)",
        microscope.nothing_is_lost(montage_id),
        f"{seen.to_upload} tiles to upload; “The upload waits: {cut(sentence)}”; "
        "imaging goes on",
        seconds,
        "from the right token to verified, start of aloha included",
    )


def all_frames(microscope: Any, montage_id: str) -> bool:
    """Whether all twelve are still on the microscope's disk."""
    frames = (microscope.frames / montage_id).glob("*_[0-9][0-9][0-9].tiff")
    return len(list(frames)) == 12


def test_aloha_is_slow_and_then_cut_amid_a_tile(microscope: Any) -> None:
    scratch = microscope.home / "aloha" / "scratch"
    frames = r"SELECT tile_id FROM tiles WHERE state = 'sent' AND tile_id LIKE ?"

    def taking() -> list[Path]:
        return list(scratch.iterdir())

    with microscope.watched() as seen:
        slow = microscope.start()
        aloha = microscope.pid("aloha")
        stopped_while(aloha, taking)
        microscope.wait(lambda: any("no answer in time" in s for s in seen.uploads))
        assert all_frames(microscope, slow)
        os.kill(aloha, signal.SIGCONT)
        slow_at = time.time()
        slow_s = microscope.wait_uploaded(slow) - slow_at
        waited = next(each for each in seen.uploads if "no answer in time" in each)
        microscope.wait(lambda: seen.uploads[-1] == "")
    microscope.row(
        "aloha hangs amid a tile (SIGSTOP; time limit 3 s)",
        microscope.nothing_is_lost(slow),
        f"{seen.to_upload} tiles to upload; “The upload waits: {cut(waited)}”",
        slow_s,
        "from its next answer to verified",
    )
    with microscope.watched() as seen:
        montage_id = microscope.start()
        stopped_while(aloha, taking)
        (torn, *_) = taking()
        before = [t for (t,) in microscope.journal("buffer", frames, f"{montage_id}-%")]
        at_kill = stored(microscope, montage_id, *before)
        with microscope.away("aloha"):
            cut_at = time.time()
            microscope.wait(lambda: any("does not serve" in s for s in seen.uploads))
            assert all_frames(microscope, montage_id)
        seconds = microscope.wait_uploaded(montage_id) - cut_at
    assert not torn.exists()
    assert stored(microscope, montage_id, *before) == at_kill
    assert len(before) < 12
    waited = next(each for each in seen.uploads if "does not serve" in each)
    microscope.row(
        "aloha `kill -9` amid a PUT",
        microscope.nothing_is_lost(montage_id),
        f"“The upload waits: {cut(waited)}”",
        seconds,
        "from the kill to verified, start of aloha included",
    )


def stored(microscope: Any, montage_id: str, *tile_ids: str) -> list[int]:
    """When the pyramids of these tiles were written; twice would show here."""
    key = acquisition_of(tile_ids[0]) if tile_ids else montage_id
    folder = store_of(microscope.settings).url(layout.uploaded_acquisition(key))
    names = (Path(folder) / f"{tile_id}.zarr/zarr.json" for tile_id in tile_ids)
    return [name.stat().st_mtime_ns for name in names]


def test_the_tem_database_is_down_and_comes_back(microscope: Any) -> None:
    with microscope.watched() as seen:
        with microscope.away("temdb"):
            montage_id = microscope.start()
            microscope.wait(lambda: any("HTTP 503" in each for each in seen.uploads))
            assert not microscope.is_uploaded(montage_id)
            assert all_frames(microscope, montage_id)
            left_at = time.time()
        seconds = microscope.wait_uploaded(montage_id) - left_at
    (sentence, *_) = [each for each in seen.uploads if "HTTP 503" in each]
    assert "TEM DB" in sentence
    assert "error" not in seen.montage
    microscope.row(
        "TEM DB down, aloha answers 503",
        microscope.nothing_is_lost(montage_id),
        f"“The upload waits: {cut(sentence)}”; imaging goes on",
        seconds,
        "from its start to registered, start included",
    )


def test_quality_control_is_killed_while_a_stop_is_in_force(microscope: Any) -> None:
    reason = "Montage m-0000 failed its checks. Look at its seams."
    with microscope.watched() as seen:
        montage_id = microscope.start()
        waiting = microscope.queue()
        microscope.wait_imaged(montage_id, 2)
        with Bus(microscope.settings.broker, "dagster") as dagster:
            dagster.connect(30)
            dagster.publish("qc.status", status="STOP_AT_END", reason=reason)
            dagster.flush()
        state = microscope.home / "qc" / "state.json"
        microscope.wait(lambda: reason in state.read_text())
        with microscope.away("qc"):
            before = len(microscope.imaged(montage_id))
            microscope.wait(lambda: seen.modes[-1] == "preview")
            microscope.wait(lambda: seen.silent_s["qc"] > STALE_S)
            judged = microscope.verdicts(key_of(microscope, montage_id))
            unjudged = 12 - sum(judged.values())
            back_at = time.time()
        assert before < 12
        microscope.wait(
            lambda: (
                len(microscope.verdicts(key_of(microscope, montage_id))) == 12
                and microscope.page()["parts"]["qc"]["by"] == "qc"
            )
        )
        judged_s = time.time() - back_at
        light = microscope.page()["parts"]["qc"]
        assert (light["status"], light["reason"]) == ("STOP_AT_END", reason)
        assert microscope.imaged(waiting) == []
        microscope.wait_uploaded(montage_id)
        microscope.press("start")
        microscope.wait_uploaded(waiting)
    assert unjudged > 0
    assert seen.lights[-1] == "GOOD"
    assert seen.sentence("QC: stop at end") == f"QC: stop at end: {reason}"
    microscope.nothing_is_lost(waiting)
    microscope.row(
        "QC `kill -9` with a stop in force",
        microscope.nothing_is_lost(montage_id),
        f"“QC: stop at end: {reason}” throughout; light old after 2 s; the scope "
        "stops after the montage; Start lifts it",
        judged_s,
        f"from its start until the {unjudged} tiles imaged meanwhile were judged",
    )


def key_of(microscope: Any, montage_id: str) -> str:
    return str(microscope.acquisition(montage_id))


def test_the_disk_is_nearly_full(microscope: Any) -> None:
    """The last test: the buffer frees what the others have left."""
    uploaded = [path.parent for path in microscope.frames.glob("*/*.complete.json")]
    least_gb = (free_bytes(microscope.frames) - BALLAST / 2) / 1e9
    ballast = microscope.home / "ballast"
    with microscope.watched() as seen, ExitStack() as others:
        for name in ("coordinator", "buffer"):
            chosen = {f"acquisition.{name}.min_free_gb": f"{least_gb:.3f}"}
            others.enter_context(microscope.instead(name, chosen))
        assert list(uploaded[0].glob("*.tiff"))
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, BALLAST)
        montage_id = microscope.start()
        microscope.wait(lambda: "failed" in seen.modes)
        microscope.wait(lambda: not any(f for u in uploaded for f in u.glob("*.tiff")))
        (waits,) = [
            entry
            for entry in microscope.page()["parts"]["queue"]["queue"]
            if entry["montage_id"] == montage_id
        ]
        assert microscope.imaged(montage_id) == []
        ballast.unlink()
        freed_at = time.time()
        microscope.press("retry")
        microscope.wait_imaged(montage_id, 1)
        seconds = microscope.imaged(montage_id)[0] - freed_at
        microscope.wait(lambda: seen.montage[-1] == "completed")
        microscope.wait_uploaded(montage_id)
    assert waits["status"] in ("failed", "active", "pending")
    sentence = seen.sentence("GB free")
    assert f"{montage_id} is not imaged" in sentence
    assert sentence.endswith("free space, then retry")
    microscope.row(
        "disk nearly full",
        microscope.nothing_is_lost(montage_id),
        f"before the aperture: “{cut(sentence)}”; the region stays in the queue; the "
        "buffer frees what is verified",
        seconds,
        "from freed space and Retry to the first tile",
    )
