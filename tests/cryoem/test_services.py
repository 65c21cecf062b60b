"""Services handle messages of recipes, in one process as live."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from em_platform.cli import main
from em_platform.cryoem.ispyb import Parents, register_collection
from em_platform.cryoem.services import load_service
from em_platform.cryoem.services.local import run_recipe
from em_platform.cryoem.services.process_recipe import requested
from em_platform.cryoem.services.step import (
    Outgoing,
    ServiceContext,
    Step,
    handle_message,
)
from em_platform.errors import ConfigError, MessageRejected, PlatformError, RecordError

_EMISPYB = {"service": "EMISPyB", "queue": "ispyb_connector"}
RECIPE: dict[str, Any] = {
    "1": {
        **_EMISPYB,
        "parameters": {
            "ispyb_command": "insert_movie",
            "dcid": "{dcid}",
            "movie_path": "{movie}",
            "foil_hole_id": "{foil_hole_id}",
            "store_result": "movie",
        },
        "output": [2, 3],
    },
    "2": {
        **_EMISPYB,
        "parameters": {
            "ispyb_command": "insert_motion_correction",
            "movie_id": "$movie",
            "program_id": "{program}",
        },
        "output": {"output": 4},
    },
    "3": {**_EMISPYB, "parameters": {"ispyb_command": "insert_ctf", "ctf_id": "x"}},
    "4": {"service": "Murfey", "queue": "{queue}"},
    "start": [[1, []]],
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ServiceContext]:
    opened = ServiceContext(ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture
def known(place: ServiceContext) -> Parents:
    with place.ispyb.write() as writer:
        return register_collection(
            writer, image_directory="/d", image_prefix="p", recipe="r"
        )


def recipe_of(known: Parents) -> dict[Any, Any]:
    parameters = {
        "dcid": known.dcid,
        "program": known.program_id,
        "movie": "/d/a.tif",
        "queue": "feedback",
    }
    request = {"custom_recipe": RECIPE, "parameters": parameters}
    return requested(request)[1]


def test_a_recipe_runs_to_its_end_and_a_failed_step_ends_its_branch_alone(
    place: ServiceContext, known: Parents
) -> None:
    for _ in range(2):  # nothing is doubled by a second time
        ran = list(run_recipe(recipe_of(known), place, guid="g"))
        assert [(each.step, each.sent) for each in ran] == [
            *((1, 2), (2, 1), (3, 0), (4, 0))
        ]
        assert isinstance(ran[2].error, RecordError)
        assert "CTF.ctfId got 'x', a number" in str(ran[2].error)
        assert ran[3].is_outside
        assert ran[3].payload == {"result": 1}
        assert ran[1].environment == {"ID": "g", "movie": 1}


def test_a_message_without_a_recipe_answers_at_the_channels_own_queue(
    place: ServiceContext, known: Parents
) -> None:
    message = {
        "ispyb_command": "insert_movie",
        "dcid": known.dcid,
        "movie_path": "/d/a.tif",
    }
    handler = load_service("EMISPyB")
    for body in (message, {"parameters": message}):
        sent = handle_message(handler, {}, body, place)
        assert sent == [Outgoing(queue="output", body={"result": 1})]


def test_a_request_names_recipes_and_reads_no_file(
    place: ServiceContext, tmp_path: Path
) -> None:
    """round3 4.7: a name that ended in .json read any file, and echoed a part."""
    (tmp_path / "secret.json").write_text('{"1": "secret"}')
    for name in (f"{tmp_path}/secret.json", "../secret", f"{tmp_path}/secret"):
        with pytest.raises(ConfigError, match="there is no") as refused:
            handle_message(
                load_service("ProcessRecipe"), {}, {"recipes": [name]}, place
            )
        assert "'secret'" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"file": "a", "x": "[" * 900 + "]" * 900}, "lists"),
        ({"start": 9000}, "has more than 150000000 bytes"),
    ],
)
def test_a_short_message_takes_no_memory_without_end(
    place: ServiceContext, body: dict[str, Any], sentence: str
) -> None:
    """round3 4.6: what a service sends is as bounded as what it gets."""
    if "start" in body:
        step = {"queue": "a", "parameters": {"x": "y" * 100_000}}
        recipe = {"1": step, "start": [[1, []]] * body["start"]}
        message: dict[str, Any] = {"custom_recipe": recipe}
    else:
        nested = json.loads(body["x"])
        message = {
            "custom_recipe": {"1": {"parameters": {"x": nested}}, "start": [[1, []]]}
        }
    with pytest.raises(MessageRejected, match=sentence):
        handle_message(load_service("ProcessRecipe"), {}, message, place)


def test_what_is_sent_is_as_it_was_then(place: ServiceContext) -> None:
    """The sender goes on changing its own; the wire does not."""

    def handler(step: Step, _: ServiceContext) -> None:
        payload = {"number": 1}
        step.send("images", payload)
        payload["number"] = 2
        step.send("images", payload)

    sent = handle_message(handler, {}, {}, place)
    assert [each.body for each in sent] == [{"number": 1}, {"number": 2}]


def test_a_report_has_what_upstreams_node_creator_asks_for(
    place: ServiceContext,
) -> None:
    """Of cryoem-services 1.5.1, `NodeCreatorParameters` has no default for these."""

    def handler(step: Step, _: ServiceContext) -> None:
        step.send("node_creator", {"command": "x", "job_type": "relion.extract"})

    [sent] = handle_message(handler, {}, {}, place)
    assert sent.body == {
        **{"command": "x", "job_type": "relion.extract"},
        **{"stdout": "", "stderr": ""},
    }


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, "text"),
        ({}, [1]),
        ({"workflows-recipe": True}, {}),
        ({"workflows-recipe": "True"}, {"recipe": {}, "recipe-pointer": 1}),
        ({"workflows-recipe": 1}, {"recipe": RECIPE, "recipe-pointer": "x"}),
        ({"workflows-recipe": True}, []),
    ],
)
def test_what_is_no_message_is_one_sentence(
    place: ServiceContext, headers: dict[str, Any], body: Any
) -> None:
    with pytest.raises(MessageRejected, match=r"message: .* expected; send"):
        handle_message(load_service("EMISPyB"), headers, body, place)


@pytest.mark.parametrize(
    ("message", "kind", "sentence"),
    [
        ({}, MessageRejected, "no recipe was named"),
        ({"recipes": "em-tomo-align"}, MessageRejected, "was no list"),
        ({"recipes": ["x"]}, ConfigError, "there is no 'x'"),
        ({"recipes": ["x"], "parameters": []}, MessageRejected, "no table"),
        ({"custom_recipe": []}, MessageRejected, "no recipe was named"),
        ({"custom_recipe": "x"}, MessageRejected, "was no table"),
        ({"custom_recipe": {"1": {}}}, RecordError, '"start" node missing'),
        ({"custom_recipe": RECIPE}, RecordError, "no parameter queue"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_sentence(
    place: ServiceContext,
    message: dict[str, Any],
    kind: type[PlatformError],
    sentence: str,
) -> None:
    with pytest.raises(kind, match=sentence):
        handle_message(load_service("ProcessRecipe"), {}, message, place)


def test_a_request_starts_all_of_its_recipes(place: ServiceContext) -> None:
    message = {
        "recipes": ["em-tomo-preprocess", "em-tomo-align"],
        "parameters": {"guid": "g", "feedback_queue": "f", "movie": "/d/a.tif"},
    }
    sent = handle_message(load_service("ProcessRecipe"), {}, message, place)
    assert [each.queue for each in sent] == ["ispyb_connector"] * 2
    assert sent[0].headers["workflows-recipe"] is True
    assert sent[0].body["environment"]["ID"] == "g"
    assert sent[0].body["recipe-pointer"] == 1
    assert sent[0].body["recipe"]["1"]["parameters"]["movie_path"] == "/d/a.tif"
    assert sent[1].body["recipe-pointer"] == 8


def test_the_command_line_checks_draws_and_runs(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(RECIPE))
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(RECIPE).replace("Murfey", "Murphy"))

    def run(*arguments: str) -> tuple[int, str]:
        try:
            main(["cryoem", "recipe", *arguments])
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    assert run("list")[1].splitlines()[:1] == ["em-spa-class2d"]
    assert run("lint", str(path)) == (0, f"{path}: no problems\n")
    status, shown = run("lint", str(wrong), "--json")
    assert status == 1
    assert json.loads(shown)["text"].startswith("no service is called 'Murphy'")
    assert "-> 4 Murfey" in run("graph", str(path))[1]
    parameters = tmp_path / "p.json"
    parameters.write_text(json.dumps({"movie": "/d/a.tif", "queue": "f"}))
    given = (str(path), "--parameters", str(parameters), "--parameter", "program=1")
    for _ in range(2):
        status, shown = run("run", *given)
        assert status == 1
        assert shown.splitlines()[0] == "step 1 EMISPyB: done, 2 messages sent"
        assert "step 3 EMISPyB: ISPyB: CTF.ctfId got 'x'" in shown
        assert 'step 4 Murfey: no service of ours; its message: {"result": 1}' in shown
    status, shown = run(
        "run", "em-tomo-align", "--parameter", "stack_file=p/Tomograms/job006/s.mrc"
    )
    assert status == 1  # there is no such stack
    assert shown.startswith("step 1 EMISPyB: done, 1 messages sent")
    assert "step 3 EMISPyB: done" in shown
    assert run("run", str(path), "--parameter", "x")[1].count("has no =") == 1


def test_a_message_to_others_is_seen_whole(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """round3 6.2: Murfey's message was cut at 300 letters."""
    path = tmp_path / "r.json"
    note = {"service": "Murfey", "queue": "feedback"}
    payload = {"register": "picked_particles", "micrograph": "m" * 1000}
    path.write_text(json.dumps({"1": note, "start": [[1, payload]]}))
    with pytest.raises(SystemExit) as end:
        main(["cryoem", "recipe", "run", str(path)])
    assert not end.value.code
    assert json.dumps(payload) in capsys.readouterr().out


def test_a_broker_that_is_not_there_is_one_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_CRYOEM__RABBITMQ__PORT", "1")
    with pytest.raises(SystemExit):
        main(["cryoem", "recipe", "send", "em-tomo-align"])
    shown = capsys.readouterr().err
    assert "RabbitMQ: 127.0.0.1:1 does not take the connection" in shown
    with pytest.raises(SystemExit):
        main(["cryoem", "service", "Nobody"])
    assert (
        "there is no Nobody, one of AreTomoAlign, CTFFind, " in capsys.readouterr().err
    )
