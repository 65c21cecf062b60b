"""Debian's RabbitMQ carries the bus and the recipes of cryo-EM, whatever goes wrong.

One broker, started once; each test has its queues for itself.
"""

import importlib.resources
import importlib.util
import json
import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from workflows.recipe import RecipeWrapper

from em_platform.config import RabbitmqSettings
from em_platform.cryoem.ispyb import register_collection
from em_platform.cryoem.services import SERVICES
from em_platform.cryoem.services.broker import connected, declare, publish
from em_platform.cryoem.services.live import dead_letters, reinject
from em_platform.cryoem.services.retries import put_off
from em_platform.cryoem.services.step import Outbox, Outgoing, ServiceContext
from em_platform.errors import BrokerUnavailable, MessageRejected
from em_platform.messaging.bus import Bus
from tests.system import live_services
from tests.system.broken_rabbitmq import (
    WORKING,
    Murfey,
    in_a_thread,
    kill_at_random,
    pass_on,
    received,
    taken,
    zocalo_dispatcher,
)
from tests.system.brokers import Server, hear_all, rabbitmq, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

log = logging.getLogger(__name__)
LIVE = ("ProcessRecipe", "EMISPyB")
_EMISPYB = {"service": "EMISPyB", "queue": "ispyb_connector"}
RECIPE = {
    "1": {
        **_EMISPYB,
        "parameters": {
            "ispyb_command": "insert_movie",
            "dcid": "{dcid}",
            "movie_path": "{movie}",
            "store_result": "movie_id",
        },
        "output": 2,
    },
    "2": {
        **_EMISPYB,
        "parameters": {
            "ispyb_command": "buffer",
            "program_id": "{program}",
            "movie_id": "$movie_id",
            "store_result": "motion_id",
            "buffer_command": {"ispyb_command": "insert_motion_correction"},
            "buffer_store": 7,
        },
        "output": 3,
    },
    "3": {"service": "Murfey", "queue": "feedback"},
    # It comes first, and has to wait until the number is stored.
    "4": {
        **_EMISPYB,
        "parameters": {
            "ispyb_command": "buffer",
            "program_id": "{program}",
            "buffer_command": {"ispyb_command": "insert_ctf"},
            "buffer_lookup": {"motion_correction_id": 7},
        },
        "output": 3,
    },
    "start": [[4, []], [1, []]],
}


def each_or_all(
    fixture_name: str, config: pytest.Config
) -> Literal["function", "module"]:
    """A broker for each test that kills it.

    RabbitMQ 3.10 forgets queues that were deleted and made again shortly before.
    """
    return "function" if config.getoption("--many-kills") else "module"


@pytest.fixture(scope=each_or_all)
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
def settings(broker: Server) -> Iterator[RabbitmqSettings]:
    found = RabbitmqSettings(port=broker.amqp_port, tries=3, retry_s=0.2)
    with live_services.own_queues(found, "feedback", "failure"):
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ServiceContext]:
    opened = ServiceContext(
        ispyb_url=f"sqlite:///{tmp_path / 'ispyb.sqlite'}", roots=(tmp_path,)
    )
    yield opened
    opened.close()


def test_the_bus_fans_out(broker: Server) -> None:
    expected = [f"{number}:ü\\" for number in range(200)]
    assert hear_all(broker.settings, 200) == [expected, expected]
    wrong = broker.settings.model_copy(update={"password": SecretStr("guess")})
    with Bus(wrong, "b") as bus:
        with pytest.raises(BrokerUnavailable, match="refused: Bad CONNECT"):
            bus.connect(10)


def test_a_recipe_becomes_rows_whatever_comes_between(
    settings: RabbitmqSettings, place: ServiceContext
) -> None:
    """A request, and between it messages that no service can handle."""
    with place.ispyb.write() as writer:
        known = register_collection(
            writer, image_directory="/d", image_prefix="p", recipe="r"
        )
    with ExitStack() as stack:
        for name in LIVE:
            stack.enter_context(in_a_thread(name, place, settings))
        channel = stack.enter_context(connected(settings))
        request = {
            "custom_recipe": RECIPE,
            "parameters": {
                "dcid": known.dcid,
                "program": known.program_id,
                "movie": "/d/a.tif",
                "guid": "g",
            },
        }
        for body in (b"{", b"[]", b'{"recipes": ["nothing"]}'):
            channel.basic_publish("", "processing_recipe", body)
        publish(channel, Outgoing(queue="processing_recipe", body=request))
        answers = list(received(channel, "feedback", 2))
        with pytest.raises(MessageRejected, match="nowhere does not exist"):
            publish(channel, Outgoing(queue="nowhere", body={}))
    # As upstream's services read it.
    wrapper = RecipeWrapper(message=answers[0][1], transport=Outbox())
    assert answers[0][0]["workflows-recipe"] is True
    assert wrapper.recipe_path == [1, 2]
    assert wrapper.environment == {"ID": "g", "movie_id": 1, "motion_id": 1}
    assert wrapper.payload == {"result": 1}
    with place.ispyb.engine.connect() as connection:
        found = connection.execute(text('SELECT "movieId" FROM "MotionCorrection"'))
        assert [row[0] for row in found] == [1]
        looked_up = connection.execute(text('SELECT "motionCorrectionId" FROM "CTF"'))
        assert [row[0] for row in looked_up] == [1]
    dead = dead_letters(settings, "processing_recipe")
    assert [each["error"].partition(",")[0] for each in dead] == [
        "message: b'{' is no JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))",
        "message: '[]' was found",
        "recipe: there is no 'nothing'",
    ]
    assert reinject(settings, "processing_recipe") == 3
    assert dead_letters(settings, "processing_recipe") == []


def test_zocalos_dispatcher_and_ours_send_the_same(
    settings: RabbitmqSettings, place: ServiceContext, tmp_path: Path
) -> None:
    """One of ours replaces one of theirs: the same messages, read by the same."""
    if importlib.util.find_spec("zocalo") is None:
        pytest.skip("zocalo is not installed: make install")
    with place.ispyb.write() as writer:
        known = register_collection(
            writer, image_directory="/d", image_prefix="p", recipe="r"
        )
    parameters = {
        **{"dcid": known.dcid, "program": known.program_id, "movie": "/d/a.tif"},
        **{"guid": "one-guid", "feedback_queue": "feedback"},
    }
    named = {"recipes": ["em-tomo-preprocess"], "parameters": parameters}
    whole = {"custom_recipe": RECIPE, "parameters": parameters}
    sent = {}
    with connected(settings) as channel:

        def first_message(dispatcher: str) -> None:
            publish(channel, Outgoing(queue="processing_recipe", body=named))
            [(headers, sent[dispatcher])] = received(channel, "ispyb_connector", 1)
            assert headers["workflows-recipe"] in (True, "True")

        with zocalo_dispatcher(settings, tmp_path):
            first_message("zocalo")
            with in_a_thread("EMISPyB", place, settings):
                publish(channel, Outgoing(queue="processing_recipe", body=whole))
                answers = [body for _, body in received(channel, "feedback", 2)]
        with in_a_thread("ProcessRecipe", place, settings):
            first_message("ours")
    assert sent["ours"] == sent["zocalo"]
    assert {len(body["environment"]) for body in answers} == {1, 3}
    assert live_services.waiting(settings) == {}


SENTENCES = {
    "cut short": "cut.mrc: truncated MRC, found 79328 bytes, expected 99328",
    "gain": "the gain has 128 x 64 px, the frames have 128 x 128 px",
    "flat": "flat.mrc: all pixels of its sum are 21, expected an image",
    "not a number": "nan.mrc: found frames with values that are not finite",
    "no movie": "message: movie: Field required; send it with the message",
    "gone": "gone.mrc: found no such file",
    "fails": "relion_motion_correction: it ended with status 3 (no GPU)",
    "hangs": "relion_motion_correction: it did not end in 0.5 s",
    "writes nothing": "relion_motion_correction: it ended well but wrote no",
    "no tilt": "TS_1: the image at 3 degrees is missing",
    "no angles": "TS_2.mrc.mdoc: found 3 images, 3 of them without a TiltAngle",
    "no recipe": "recipe: there is no 'em-nothing', one of em-spa-class2d",
}


def test_bad_input_is_a_dead_letter_with_its_sentence_and_the_rest_goes_on(
    settings: RabbitmqSettings,
    place: ServiceContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs = live_services.write_broken_program(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    bad = live_services.bad_messages(tmp_path)
    assert bad.keys() == SENTENCES.keys()
    good = live_services.motion_message(tmp_path, "good")
    names = ("MotionCorr", "AreTomoAlign", "ProcessRecipe")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(in_a_thread(name, place, settings))
        channel = stack.enter_context(connected(settings))
        for case, (name, message) in bad.items():
            body = {**message, "case": case}
            publish(channel, Outgoing(queue=SERVICES[name], body=body))
        publish(channel, Outgoing(queue="motioncorr", body=good))
        # Behind all that failed.
        [(_, fit)] = received(channel, "ctffind", 1)
        assert Path(fit["input_image"]).is_file()

        def letters() -> list[dict[str, Any]]:
            found = (dead_letters(settings, SERVICES[name]) for name in names)
            return [letter for some in found for letter in some]

        wait_until(lambda: len(letters()) == len(bad))
        dead = {json.loads(each["body"])["case"]: each for each in letters()}
        failures = list(received(channel, "failure", 2))
    for case, sentence in SENTENCES.items():
        assert sentence in dead[case]["error"], case
        assert (dead[case]["tries"], "\n" in dead[case]["error"]) == (1, False)
    assert {message["status_message"] for _, message in failures} == {
        dead[case]["error"][:255] for case in ("no tilt", "no angles")
    }
    corrected = tmp_path / "p/MotionCorr/job002/Movies"
    assert {path.stem for path in corrected.glob("*.mrc")} == {
        *("good", "good_noDW", "good_EVN", "good_ODD")
    }
    assert live_services.leftovers(tmp_path) == []


def test_a_message_that_ends_its_service_each_time_is_a_dead_letter(
    settings: RabbitmqSettings,
) -> None:
    with connected(settings) as channel:
        publish(channel, Outgoing(queue="images", body={"file": "a.mrc"}))
    for _ in range(settings.tries + 1):
        # As of a service that was killed: taken, and never answered.
        with connected(settings) as channel:
            wait_until(lambda c=channel: c.basic_get("images")[0] is not None)
    wait_until(lambda: bool(dead_letters(settings, "images")))
    [letter] = dead_letters(settings, "images")
    assert letter["error"].startswith("images: the service ended each time while it")


@pytest.mark.many_kills
@pytest.mark.timeout(1800)
def test_a_killed_broker_loses_no_retry_that_is_due(
    broker: Server, settings: RabbitmqSettings
) -> None:
    """It is killed while a service passes them back."""
    dice = random.Random(7)
    for _ in range(10):
        sent = {str(number).encode() for number in range(60)}
        with connected(settings) as channel:
            declare(channel, "images", settings)
            for body in sent:
                put_off(channel, "images", body, headers={}, after_s=0.2)
        killer = threading.Timer(dice.uniform(0.2, 0.4), broker.kill)
        killer.start()
        while killer.is_alive():
            pass_on(settings)
        killer.join()
        broker.restart()
        found: set[bytes] = set()
        # One that was on its way may come twice.
        wait_until(lambda: taken(settings, found) >= sent)  # noqa: B023


@pytest.mark.timeout(7200)
def test_services_and_broker_killed_at_random_moments_lose_and_double_nothing(
    broker: Server, tmp_path: Path, many_kills: bool
) -> None:
    """Rows, files and answers are those of a run that nothing disturbed."""
    seed = int(time.time()) if many_kills else 7
    log.warning("seed %s", seed)
    # Each kill counts as a delivery, of which no message is to have too many here.
    settings = RabbitmqSettings(port=broker.amqp_port, tries=500, retry_s=0.2)
    movies = live_services.write_movies(tmp_path, tilts=12 if many_kills else 3)
    wanted, answers = live_services.undisturbed(movies, tmp_path / "alone")
    project = tmp_path / "live/projects"
    url = f"sqlite:///{tmp_path / 'live.sqlite'}"
    with ExitStack() as stack:
        stack.enter_context(live_services.own_queues(settings, "murfey_feedback"))
        services = live_services.LiveServices(tmp_path, settings, url)
        stack.callback(services.close)
        first = ServiceContext(ispyb_url=url)
        murfey = Murfey(
            settings,
            live_services.requests_of(movies, project, first),
            live_services.align_request(movies, project, first),
        )
        first.close()
        for name in WORKING:
            services.start(name)
        killed = kill_at_random(
            *(murfey, services, broker),
            dice=random.Random(seed),
            kills=200 if many_kills else 10,
        )
        log.warning("killed: %s", killed)

        def found() -> Any:
            return live_services.rows_in(url, project), live_services.files_in(project)

        def is_done() -> bool:
            time.sleep(0.3)
            murfey.ask()
            return not live_services.waiting(settings) and found() == wanted

        try:
            wait_until(is_done, 600 if many_kills else 120)
        except AssertionError:
            pytest.fail(f"seed {seed}: {live_services.difference(found(), wanted)}")
        services.close()
        # What a service had in hand is there again, or it was done.
        assert live_services.waiting(settings) == {}
        assert live_services.leftovers(project) == []
        murfey.ask()
        payloads = {each.replace(str(project), "P") for each in murfey.payloads}
        assert payloads == answers
