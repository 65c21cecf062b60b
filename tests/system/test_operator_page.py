"""The operator's page in a browser, on a microscope of real processes."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_webserver.app import create_app_from_workspace_process_context

from em_platform.config import Settings, export, load_settings
from em_platform.processes import Supervisor
from tests.chromium import chromium, needs_chromium
from tests.ports import reserve_port
from tests.rig import running_rig

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    needs_chromium,
]

WANTED = (
    "scope",
    "stage",
    "camera",
    "pipeline",
    "qc",
    "montage_fit",
    "coordinator",
    "operator",
)
PATIENCE_MS = 120_000
"""Eight other jobs may share the computer."""


@dataclass(kw_only=True)
class Microscope:
    """What runs, and where its page is."""

    settings: Settings
    supervisor: Supervisor

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.acquisition.operator.port}"

    def kill(self, name: str) -> None:
        """As by a crash; the supervisor starts it again."""
        os.kill(self.supervisor.pids[name], signal.SIGKILL)


@pytest.fixture(scope="module")
def microscope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Microscope]:
    home = tmp_path_factory.mktemp("operator")
    environment = export(
        {
            "broker.port": str(reserve_port()),
            "acquisition.operator.port": str(reserve_port()),
            "web.port": str(reserve_port()),
            "acquisition.overlap": "0.25",
            "acquisition.request_timeout_s": "10",
            "acquisition.simulation.tile_px": "256",
            "acquisition.simulation.stage_settle_ms": "100",
            "acquisition.simulation.exposure_ms": "100",
            "acquisition.operator.control_timeout_s": "600",
        }
    )
    settings = load_settings(environment={**environment, "EM_HOME": str(home)})
    with running_rig(settings, environment=environment, wanted=WANTED) as supervisor:
        tending = threading.Thread(target=supervisor.run)
        tending.start()
        yield Microscope(settings=settings, supervisor=supervisor)
        supervisor.stopping.set()
        tending.join()


@dataclass(kw_only=True)
class Browsers:
    """Opens pages of different people, and notes what their consoles complain of."""

    browser: Any
    url: str
    complaints: list[str] = field(default_factory=list)

    def open(self, **options: Any) -> Any:
        page = self.browser.new_context(**options).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)
        page.goto(self.url)
        page.locator("#link", has_text="live").wait_for()
        return page

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} {message.location}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def browsers(microscope: Microscope, browser: Any) -> Iterator[Browsers]:
    yield Browsers(browser=browser, url=microscope.url)
    for context in browser.contexts:
        context.close()


def take_control(page: Any, name: str) -> None:
    page.locator("#control").click()
    page.locator("#control-form [name=name]").fill(name)
    page.locator("#control-ok").click()
    page.locator("#holder", has_text=f"you ({name})").wait_for()


def add_region(page: Any, montage_id: str, *, rows: int, columns: int) -> None:
    page.locator("#add-open").click()
    form = page.locator("#roi-form")
    form.locator("[name=montage_id]").fill(montage_id)
    form.locator("[name=rows]").fill(str(rows))
    form.locator("[name=columns]").fill(str(columns))
    form.get_by_role("button", name="Add to the queue").click()
    page.locator("#queue li", has_text=montage_id).wait_for()


def button(page: Any, action: str) -> Any:
    return page.locator(f"[data-action={action}]")


def press(page: Any, action: str) -> None:
    button(page, action).click()  # waits until it is enabled


def tiles(page: Any, montage_id: str = "") -> int:
    """How many tiles are painted on the map, where it shows that montage."""
    canvas = page.locator("#map")
    shown = canvas.get_attribute("data-montage") or ""
    if montage_id not in ("", shown):
        return 0
    return int(canvas.get_attribute("data-tiles") or 0)


def wait_for_tiles(page: Any, count: int, montage_id: str = "") -> None:
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while tiles(page, montage_id) < count:
        assert time.monotonic() < deadline, f"{tiles(page)} of {count} tiles"
        page.wait_for_timeout(100)


def wait_for_preview(page: Any) -> None:
    page.locator("#path li", has_text="Preview").wait_for()


def test_a_session_is_started_watched_and_stopped_from_the_page(
    browsers: Browsers,
) -> None:
    page = browsers.open(viewport={"width": 1280, "height": 800})
    second = browsers.open(viewport={"width": 1920, "height": 1080})
    wait_for_preview(page)
    take_control(page, "Ada")
    assert button(page, "start").is_disabled()
    add_region(page, "m-0001", rows=5, columns=6)
    add_region(page, "m-0002", rows=3, columns=6)
    press(page, "start")
    page.locator("#path li", has_text="Acquisition").wait_for()
    wait_for_tiles(page, 3)
    page.locator("#stop-end").click()
    page.locator("#stop-end", has_text="Stopping at end").wait_for()

    second.locator("#holder", has_text="Ada").wait_for()
    assert button(second, "pause").is_disabled()
    assert second.locator("#add-open").is_disabled()
    assert second.locator("#stop-now").is_enabled()
    wait_for_tiles(second, 3)

    page.locator("#run-name", has_text="m-0001 · completed").wait_for()
    wait_for_preview(page)
    assert page.locator("#done").inner_text() == "30 / 30 tiles"
    assert page.locator("#queue [data-status=pending]", has_text="m-0002").count() == 1
    page.locator("#finished tr", has_text="m-0001").first.wait_for()
    for each in (page, second):
        wait_for_tiles(each, 30)

    page.locator("#map").focus()
    page.keyboard.press("End")
    page.locator("#tile strong", has_text="Row 4").wait_for()
    page.keyboard.press("ArrowUp")
    page.locator("#tile strong", has_text="Row 3").wait_for()
    page.locator("#tile dd", has_text="of").first.wait_for()  # so many good matches
    with page.context.expect_page() as opened:
        page.locator("#tile a", has_text="Full resolution").click()
    full = opened.value.locator("img")
    full.wait_for()
    assert full.evaluate("image => image.naturalWidth") > 200  # a tile has 256 px
    opened.value.close()
    page.reload()
    page.locator("#holder", has_text="you (Ada)").wait_for()
    wait_for_tiles(page, 30)
    assert browsers.complaints == []


def test_anybody_stops_now_by_the_keyboard_also_over_an_open_form(
    browsers: Browsers, microscope: Microscope
) -> None:
    page, second = browsers.open(), browsers.open()
    wait_for_preview(page)
    take_control(page, "Bob")
    add_region(page, "m-0003", rows=12, columns=12)
    page.get_by_role("button", name="Move m-0003 up").click()
    page.locator("#queue li:first-child", has_text="m-0003").wait_for()
    press(page, "start")
    wait_for_tiles(page, 4, "m-0003")
    second.locator("#control").click()
    second.keyboard.type("C")
    second.keyboard.press("Control+.")
    wait_for_preview(page)
    imaged = list((microscope.settings.home / "frames/m-0003").glob("*.tiff"))
    assert 4 <= len(imaged) < 144
    journal = page.locator("#journal")
    journal.get_by_text("Stop now pressed at 127.0.0.1").first.wait_for()
    page.locator("#finished tr", has_text="m-0003").first.wait_for()
    second.locator("#control-form [name=name]").fill("Cy")
    second.locator("#control-ok").click()
    page.locator("#holder", has_text="Cy").wait_for()
    assert button(page, "start").is_disabled()
    forbidden = [c for c in browsers.complaints if "403" not in c]
    assert forbidden == []


def test_a_montage_pauses_and_goes_on_and_setup_waits_for_the_preview(
    browsers: Browsers,
) -> None:
    page = browsers.open()
    wait_for_preview(page)
    page.locator("#control").click()
    page.locator("#control-form [name=name]").fill("Dora")
    page.locator("#control-ok").click()
    page.locator("#holder", has_text="you (Dora)").wait_for()
    add_region(page, "m-0004", rows=5, columns=6)
    page.get_by_role("button", name="Move m-0004 up").click()
    page.locator("#queue li:first-child", has_text="m-0004").wait_for()
    page.get_by_role("button", name="Remove m-0002").click()
    press(page, "start")
    wait_for_tiles(page, 2, "m-0004")
    assert button(page, "auto_focus").is_disabled()
    press(page, "pause")
    page.locator("#path li", has_text="Paused").wait_for()
    page.locator("#run-name", has_text="paused").wait_for()
    press(page, "resume")
    page.locator("#run-name", has_text="m-0004 · completed").wait_for()
    wait_for_preview(page)
    wait_for_tiles(page, 30, "m-0004")
    press(page, "auto_focus")
    page.locator("#journal").get_by_text("Asked for: auto focus").wait_for()
    page.locator("#path li", has_text="Auto focus").wait_for()
    assert browsers.complaints == []


def test_the_page_survives_its_service_and_the_broker(
    browsers: Browsers, microscope: Microscope
) -> None:
    page = browsers.open()
    wait_for_preview(page)
    wait_for_tiles(page, 4)
    before = tiles(page)
    microscope.kill("operator")
    page.locator("#link", has_text="service away").wait_for()
    assert "What you see is old" in page.locator("#banner").inner_text()
    page.locator("#link", has_text="live").wait_for()
    wait_for_tiles(page, before)
    second = browsers.open()
    wait_for_tiles(second, before)
    microscope.kill("broker")
    page.locator("#journal").get_by_text("does not answer").first.wait_for()
    page.locator("#journal").get_by_text("is back").first.wait_for()
    page.locator("#link", has_text="live").wait_for()
    page.locator("#qc[data-level=good]").wait_for()


montages = dg.DynamicPartitionsDefinition(name="montages")
severity = [dg.AssetCheckSeverity.WARN]


@dg.asset(
    partitions_def=montages,
    check_specs=[dg.AssetCheckSpec("seams_are_closed", asset="mosaic")],
)
def mosaic() -> Iterator[dg.MaterializeResult[None]]:
    check = dg.AssetCheckResult(
        passed=False, severity=severity[0], description="a seam of 9 px"
    )
    yield dg.MaterializeResult(check_results=[check])


@dg.asset(partitions_def=montages)
def acquisition_review() -> None:
    """Succeeds, whatever came of the stitching."""


dagster = dg.Definitions(
    assets=[mosaic, acquisition_review],
    jobs=[
        dg.define_asset_job("stitch_montages", selection=["mosaic"]),
        dg.define_asset_job("review_acquisitions", selection=["acquisition_review"]),
    ],
)


def stitch_and_review(instance: dg.DagsterInstance, key: str) -> None:
    for job in ("stitch_montages", "review_acquisitions"):
        dagster.resolve_job_def(job).execute_in_process(
            instance=instance, partition_key=key
        )


def test_warnings_and_failures_of_a_stitching_are_reported_apart(
    browsers: Browsers,
    microscope: Microscope,
    served: Callable[..., AbstractContextManager[str]],
    tmp_path: Path,
) -> None:
    page = browsers.open()
    done = page.locator("#finished tr", has_text="complete").first
    done.wait_for()
    key = done.locator("th").inner_text()
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        ThreadPoolExecutor(1) as elsewhere,  # this thread has the browser's event loop
        WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context,
        served(
            create_app_from_workspace_process_context(context),
            microscope.settings.web.port,
        ),
    ):
        instance.add_dynamic_partitions("montages", [key])
        elsewhere.submit(stitch_and_review, instance, key).result()
        shown = page.locator("#finished tr", has_text=key)
        shown.locator("[data-level=warn]", has_text="1 warning").wait_for()
        severity[0] = dg.AssetCheckSeverity.ERROR  # it is stitched once more
        elsewhere.submit(stitch_and_review, instance, key).result()
        failed = shown.locator("[data-level=bad]", has_text="1 failed")
        failed.wait_for()
        assert failed.get_attribute("title") == "seams_are_closed: a seam of 9 px"
    assert browsers.complaints == []
