"""Messages as upstream's programs send them, by `workflows`' own transport."""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pika.data
import pytest
import starfile
from workflows.recipe import RecipeWrapper
from workflows.transport.pika_transport import PikaTransport

from em_platform.config import RabbitmqSettings
from em_platform.cryoem.recipes import read_recipe
from em_platform.cryoem.services.broker import connected, publish_body
from em_platform.cryoem.services.live import dead_letters, reinject
from em_platform.cryoem.services.step import Outbox, ServiceContext
from em_platform.errors import MessageRejected
from tests.cryoem.test_tomo_services import ANGLES, PIXEL_A, tilt_image
from tests.system import live_services
from tests.system.broken_rabbitmq import in_a_thread, received
from tests.system.brokers import rabbitmq, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitmqSettings]:
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
        found = RabbitmqSettings(port=server.amqp_port, tries=20, retry_s=0.2)
        with live_services.own_queues(found, "murfey_feedback"):
            yield found


@contextmanager
def upstream(
    settings: RabbitmqSettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PikaTransport]:
    monkeypatch.setitem(PikaTransport.config, "--rabbit-host", settings.host)
    monkeypatch.setitem(PikaTransport.config, "--rabbit-port", settings.port)
    transport = PikaTransport()
    assert transport.connect()
    try:
        yield transport
    finally:
        transport.disconnect()


def upstreams_align() -> dict[Any, Any]:
    """Our recipe with a step for whose service nobody here has a queue."""
    recipe = dict(read_recipe("em-tomo-align"))
    denoise = dict(recipe[5])
    # Before the others, which were never sent then.
    denoise["output"] = {"segmentation": 10, **denoise["output"]}
    recipe[10] = {"service": "MembrainSeg", "queue": "segmentation"}
    return {str(key): value for key, value in {**recipe, 5: denoise}.items()}


def test_a_series_becomes_a_tomogram_though_nobody_segments_it(
    settings: RabbitmqSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """round3 6.2: names of a facility, no CTF job, no ISPyB, and no such queue."""
    project = tmp_path / "project"
    movies = project / "MotionCorr/job002/Movies"
    movies.mkdir(parents=True)
    for number, angle in enumerate(ANGLES[1:4], 1):
        name = f"P_1_{number:03}_{angle:.2f}_20260101_101010_fractions.mrc"
        mrcfile.write(movies / name, tilt_image(angle), voxel_size=PIXEL_A)
    stack = project / "Tomograms/job006/tomograms/P_1_stack.mrc"
    denoised = project / "Denoise/job007/tomograms/P_1_stack_Vol.denoised.mrc"
    request = {
        "custom_recipe": upstreams_align(),
        "parameters": {
            **{"stack_file": str(stack), "path_pattern": f"{movies}/*_fractions.mrc"},
            **{"pixel_size": PIXEL_A, "tilt_axis": 0, "guid": "one-guid"},
        },
    }
    place = ServiceContext(ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}")
    names = ("ProcessRecipe", "EMISPyB", "AreTomoAlign", "Denoise", "Images")
    pictures = [
        *(denoised.with_name(f"{denoised.stem}_{end}") for end in _PICTURES),
        *(stack.with_name(f"P_1_stack_Vol_{end}") for end in _PICTURES),
    ]
    listed = project / "Denoise/job007/tomograms.star"
    with ExitStack() as stack_of:
        for name in (*names, "NodeCreator"):
            stack_of.enter_context(in_a_thread(name, place, settings))
        transport = stack_of.enter_context(upstream(settings, monkeypatch))
        transport.send("processing_recipe", request)
        wait_until(lambda: all(path.is_file() for path in (*pictures, listed)))
        wait_until(lambda: live_services.waiting(settings) == {"dlq.denoise": 1})
    aligned = starfile.read(project / "AlignTiltSeries/job005/tilt_series/P_1.star")
    assert list(aligned.rlnTomoNominalStageTiltAngle) == list(ANGLES[1:4])
    [letter] = dead_letters(settings, "denoise")
    assert letter["error"].startswith("RabbitMQ: the queue segmentation does not exist")
    with pytest.raises(MessageRejected, match="segmentation does not exist"):
        reinject(settings, "denoise")
    assert len(dead_letters(settings, "denoise")) == 1
    with connected(settings) as channel:
        channel.queue_declare("segmentation", durable=True)
        assert reinject(settings, "denoise") == 1
        [(headers, body)] = received(channel, "segmentation", 1)
        channel.queue_delete("segmentation")
    assert (headers["workflows-recipe"], set(headers)) == (True, {"workflows-recipe"})
    wrapper = RecipeWrapper(message=body, transport=Outbox())
    assert wrapper.payload["tomogram"] == str(denoised)
    assert live_services.waiting(settings) == {}
    place.close()


_PICTURES = ("thumbnail.jpeg", "movie.png")


def test_a_movie_without_a_data_collection_runs_to_its_end(
    settings: RabbitmqSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """round3 6.2: `em-spa-preprocess` without `dcid` ended at its first step."""
    movie = tmp_path / "FoilHole_1_fractions.mrc"
    live_services.write_movie(movie, 1)
    project = tmp_path / "project"
    given = {
        **{"movie": str(movie), "pixel_size": live_services.PIXEL_A, "fm_dose": 0.5},
        "mrc_out": f"{project}/MotionCorr/job002/Movies/{movie.stem}.mrc",
        **{"feedback_queue": "murfey_feedback", "particle_diameter": 96},
    }
    request = {"recipes": ["em-spa-preprocess"], "parameters": given}
    place = ServiceContext(ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}")
    names = ("ProcessRecipe", "EMISPyB", "MotionCorr", "CTFFind", "CrYOLO", "Images")
    with ExitStack() as stack_of:
        for name in (*names, "NodeCreator"):
            stack_of.enter_context(in_a_thread(name, place, settings))
        transport = stack_of.enter_context(upstream(settings, monkeypatch))
        transport.send("processing_recipe", request)
        channel = stack_of.enter_context(connected(settings))
        [(_, body)] = received(channel, "murfey_feedback", 1)
        picks = project / "AutoPick/job004/autopick.star"
        wait_until(picks.is_file)
        wait_until(lambda: live_services.waiting(settings) == {})
    assert body["payload"]["register"] == "picked_particles"
    place.close()


def test_a_topic_that_nobody_declared_is_a_dead_letter_alone(
    settings: RabbitmqSettings, tmp_path: Path
) -> None:
    """The broker closes the channel of who sends to such an exchange."""
    place = ServiceContext(ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}")
    recipe = {
        "1": {"service": "x", "topic": "nowhere"},
        "2": {"service": "Murfey", "queue": "murfey_feedback"},
        "start": [[1, {}], [2, {"after": "it"}]],
    }
    with in_a_thread("ProcessRecipe", place, settings), connected(settings) as channel:
        request = {"custom_recipe": recipe, "parameters": {}}
        channel.basic_publish("", "processing_recipe", json.dumps(request).encode())
        [(_, body)] = received(channel, "murfey_feedback", 1)
        assert body["payload"] == {"after": "it"}
        wait_until(lambda: bool(dead_letters(settings, "processing_recipe")))
    [letter] = dead_letters(settings, "processing_recipe")
    assert "the exchange nowhere does not exist" in letter["error"]
    place.close()


def test_headers_of_every_type_end_no_service(
    settings: RabbitmqSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """round3 4.4: `em-tries: abc` ended a service, `em-due: inf` blocked retries."""
    encoded = pika.data.encode_value

    def encode(pieces: list[bytes], value: Any) -> int:
        # Other clients send doubles and any time; pika does not.
        if not isinstance(value, float | Moment):
            return int(encoded(pieces, value))
        is_time = isinstance(value, Moment)
        form, kind = (">cQ", b"T") if is_time else (">cd", b"d")
        pieces.append(struct.pack(form, kind, value))
        return 9

    monkeypatch.setattr(pika.data, "encode_value", encode)
    with mrcfile.new(tmp_path / "a.mrc", np.eye(32, dtype=np.float32)):
        pass
    good = json.dumps({"image_command": "mrc_to_jpeg", "file": f"{tmp_path}/a.mrc"})
    strange = [
        *("abc", "1", None, True, -1, 1 << 62, {"a": [[1]]}, [[[]], {}], b"\xff"),
        *(1e300, Decimal("1e-9"), datetime.max, Moment(1 << 63)),
    ]
    due = ["abc", None, {"a": 1}, [], "inf", "nan", Moment(1 << 63)]
    place = ServiceContext(ispyb_url="sqlite://", roots=(tmp_path,))
    with in_a_thread("Images", place, settings), connected(settings) as channel:
        for value in strange:
            headers = {"em-tries": value, "other": value, "x-death": [1], "x" * 99: "y"}
            publish_body(channel, "images", good.encode(), headers=headers)
        for value in due:
            headers = {"em-due": value}
            publish_body(channel, "retry.images", good.encode(), headers=headers)
        count = len(strange) + len(due)
        wait_until(lambda: len(dead_letters(settings, "images")) == count)
        sentences = Counter(each["error"] for each in dead_letters(settings, "images"))
        assert [*sentences.values()] == [len(strange), len(due)]
        assert all("em-" in each and "expected" in each for each in sentences)
        assert not (tmp_path / "a.jpeg").exists()
        # What comes after them is handled, and one that is put off for ever now.
        headers = {"em-due": "1e300", "long": "x" * 100_000}
        publish_body(channel, "retry.images", good.encode(), headers=headers)
        wait_until((tmp_path / "a.jpeg").exists)
        assert reinject(settings, "images") == count
        its = {"images", "retry.images", "dlq.images"}
        wait_until(lambda: not its & live_services.waiting(settings).keys())


def test_no_name_of_a_queue_ends_a_service(
    settings: RabbitmqSettings, tmp_path: Path
) -> None:
    """round3 4.4: a queue that has no name ended all dispatchers, five times."""
    strange: list[dict[str, Any]] = [
        *({"queue": "x" * 300}, {"queue": "\ud800"}, {"topic": "x" * 300}),
        *({"topic": 7}, {"topic": "\ud800"}, {"topic": "amq.rabbitmq.trace"}),
        {"queue": "\ud800{x}" + "y" * 200_000},
    ]
    good: dict[str, Any] = {
        "1": {"service": "Murfey", "queue": "murfey_feedback"},
        "start": [[1, {"after": "all"}]],
    }
    place = ServiceContext(ispyb_url="sqlite://", roots=(tmp_path,))
    with in_a_thread("ProcessRecipe", place, settings), connected(settings) as channel:
        for step in strange:
            bad = {"1": {"service": "x", **step}, "start": [[1, {}]]}
            body = json.dumps({"custom_recipe": bad, "parameters": {}})
            channel.basic_publish("", "processing_recipe", body.encode())
        body = json.dumps({"custom_recipe": good, "parameters": {}})
        channel.basic_publish("", "processing_recipe", body.encode())
        [(_, sent)] = received(channel, "murfey_feedback", 1)
        assert sent["payload"] == {"after": "all"}
        letters = dead_letters(settings, "processing_recipe")
        assert len(letters) >= len(strange)
        assert all(each["error"] and each["tries"] == 1 for each in letters)
        # Those that went to no queue stay, with one whose header names none.
        headers = {"em-queue": "x" * 300}
        publish_body(channel, "dlq.processing_recipe", b"{}", headers=headers)
        with pytest.raises(MessageRejected, match="is no name of a queue"):
            reinject(settings, "processing_recipe")
        channel.queue_purge("dlq.processing_recipe")
    place.close()


class Moment(int):
    """Seconds that are sent as a time."""
