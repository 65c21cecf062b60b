"""What needs a person reaches one: a local webhook has each alert once."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import psutil
import pytest

from em_platform.acquisition.recorder import ledger_of
from em_platform.config import load_settings
from em_platform.definitions import defs
from em_platform.messaging.topics import fitting
from em_platform.partitions import montages
from em_platform.resources.acquisition import Microscope
from em_platform.resources.storage import Configuration
from em_platform.sensors.alerts import alert_sensor
from em_platform.storage.own_faults import Troubles, troubles_folder
from tests.webhook import Webhook

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook().serving() as webhook:
        yield webhook


class Watch:
    """Ticks the sensor, as the daemon does."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._cursor: str | None = None

    def look(self) -> str:
        configuration = Configuration()
        with dg.build_sensor_context(
            instance=self._instance,
            cursor=self._cursor,
            resources={
                "configuration": configuration,
                "microscope": Microscope(configuration=configuration),
            },
        ) as context:
            skipped = alert_sensor(context)
            self._cursor = context.cursor
        assert isinstance(skipped, dg.SkipReason)
        return str(skipped.skip_message)


@pytest.fixture
def watch(
    home: Path,
    instance: dg.DagsterInstance,
    webhook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> Watch:
    monkeypatch.setenv("EM_ALERTS__TO", webhook.url)
    monkeypatch.setenv("EM_ALERTS__MIN_FREE_GB", "0")
    watch = Watch(instance)
    assert "begin now" in watch.look()
    return watch


@pytest.mark.usefixtures("cheap_runs")
def test_a_failed_check_and_a_failed_run_are_sent_once_with_their_sentences(
    instance: dg.DagsterInstance,
    drop_montage: Callable[..., Path],
    watch: Watch,
    webhook: Webhook,
) -> None:
    drop_montage("bad1", black={(0, 1), (1, 0), (1, 1)})
    drop_montage("good1")
    for key in ("bad1", "good1"):
        instance.add_dynamic_partitions(str(montages.name), [key])
        defs.resolve_job_def("stitch_montages").execute_in_process(
            partition_key=key, instance=instance, raise_on_error=False
        )
    assert watch.look() == "2 alerts sent"
    check, run = webhook.received
    assert (check["kind"], check["subject"]) == ("check_failed", "bad1")
    assert "Too few to be used: 1 of 4 tiles" in check["text"]
    assert (run["kind"], run["subject"]) == ("run_failed", "bad1")
    assert "enough_tiles_are_present" in run["text"]
    assert "Stack Trace" not in run["text"]
    assert run["page"].startswith("/runs/")
    assert watch.look() == "0 alerts sent"


def test_a_run_that_is_tried_again_is_not_sent(
    instance: dg.DagsterInstance, watch: Watch, webhook: Webhook
) -> None:
    job = defs.resolve_job_def("consolidate_catalog")
    for is_retried in ("true", "false"):
        run = instance.create_run_for_job(job)
        instance.report_run_failed(run, f"Exceeded maximum runtime ({is_retried}).")
        instance.add_run_tags(run.run_id, {"dagster/will_retry": is_retried})
    watch.look()
    [alert] = webhook.received
    assert alert["sentences"] == ["Exceeded maximum runtime (false)."]
    assert alert["subject"] == "consolidate_catalog"


def test_a_stop_is_sent_once_however_often_it_is_repeated(
    watch: Watch, webhook: Webhook
) -> None:
    def say(status: str, reason: str, number: int) -> None:
        body = fitting("qc.status", {"status": status, "reason": reason})
        with ledger_of(load_settings()) as recorder:
            recorder.append("qc.status", body.model_dump(), {"sequence": str(number)})

    say("STOP_AT_END", "5 of 20 tiles are out of focus", 1)
    say("STOP_AT_END", "5 of 20 tiles are out of focus", 2)
    assert watch.look() == "1 alerts sent"
    say("STOP_AT_END", "5 of 20 tiles are out of focus", 3)
    assert watch.look() == "0 alerts sent"
    say("GOOD", "", 4)
    say("STOP_NOW", "no beam", 5)
    assert watch.look() == "1 alerts sent"
    assert [a["text"].splitlines() for a in webhook.received] == [
        [
            "em-platform: scope stopped: STOP_AT_END",
            "5 of 20 tiles are out of focus",
        ],
        ["em-platform: scope stopped: STOP_NOW", "no beam"],
    ]


class Usage(NamedTuple):
    """Of a disk; only its `free` is looked at."""

    free: float


def test_a_full_disk_is_sent_once_until_there_is_room_again(
    watch: Watch,
    webhook: Webhook,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    really_free = shutil.disk_usage(home).free / 1e9
    monkeypatch.setenv("EM_ALERTS__MIN_FREE_GB", str(really_free * 2))
    assert watch.look() == "1 alerts sent"
    [alert] = webhook.received
    assert alert["kind"] == "disk_full"
    assert alert["sentences"][0].startswith(f"{home}: ")
    assert watch.look() == "0 alerts sent"
    monkeypatch.setenv("EM_ALERTS__MIN_FREE_GB", "5")
    for free_gb, sent in ((5.5, 0), (7.0, 0), (4.9, 1)):
        monkeypatch.setattr(psutil, "disk_usage", lambda _, gb=free_gb: Usage(gb * 1e9))
        assert watch.look() == f"{sent} alerts sent", free_gb


def test_a_service_that_cannot_go_on_is_sent_once(
    watch: Watch, webhook: Webhook, home: Path
) -> None:
    troubles = Troubles()
    troubles.keep_in(troubles_folder(home), "pipeline-1")
    for sent in (1, 0):
        troubles.put("pipeline", "pipeline: its journal is locked")
        assert watch.look() == f"{sent} alerts sent"
    [alert] = webhook.received
    assert alert["text"].splitlines() == [
        "em-platform: service fails: pipeline-1",
        "pipeline: its journal is locked",
    ]
    troubles.put("pipeline", "")
    assert watch.look() == "0 alerts sent"


def test_what_reaches_nobody_is_sent_when_the_webhook_is_back(
    instance: dg.DagsterInstance, watch: Watch, webhook: Webhook
) -> None:
    run = instance.create_run_for_job(defs.resolve_job_def("consolidate_catalog"))
    webhook.status = 503
    instance.report_run_failed(run, "killed")
    assert watch.look() == "1 alerts reached nobody; see the log"
    webhook.status = 200
    assert watch.look() == "1 alerts sent"
    assert watch.look() == "0 alerts sent"


def test_nothing_old_is_sent_when_alerts_are_switched_on(
    instance: dg.DagsterInstance,
    watch: Watch,
    webhook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EM_ALERTS__TO", "")
    run: Any = instance.create_run_for_job(defs.resolve_job_def("consolidate_catalog"))
    instance.report_run_failed(run, "killed")
    assert "begin now" in watch.look()
    monkeypatch.setenv("EM_ALERTS__TO", webhook.url)
    assert watch.look() == "0 alerts sent"
