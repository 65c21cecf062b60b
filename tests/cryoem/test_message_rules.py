"""Messages choose no program and no file outside of the folders of `cryoem.roots`.

The table of fields is that of the models themselves: a new field that may hold a path
or a name fails here until it has its rule.
"""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from em_platform.config import CryoemSettings, Settings
from em_platform.cryoem.message_rules import check_message, rules_of
from em_platform.cryoem.services import SERVICES, load_service
from em_platform.cryoem.services.local import bound_place_of
from em_platform.cryoem.sessions.processing import open_sessions
from em_platform.cryoem.stage import Rule, StageParameters
from em_platform.cryoem.stages import STAGES, load_stage
from em_platform.errors import (
    ConfigError,
    MessageRejected,
)

ROOTED = (Rule.PATH, Rule.PATHS, Rule.PATTERN)


def kinds() -> list[type[StageParameters]]:
    """The parameters of all services and stages."""
    for service in SERVICES:
        load_service(service)
    for stage in STAGES:
        load_stage(stage)
    found, waiting = [], [StageParameters]
    while waiting:
        waiting += (known := waiting.pop()).__subclasses__()
        found += [known] if known.__module__.startswith("em_platform") else []
    return [kind for kind in found if kind.model_fields]


def table(*rules: Rule) -> list[Any]:
    return [
        pytest.param(kind, field, id=f"{kind.__module__.rpartition('.')[2]}.{field}")
        for kind in kinds()
        for field, rule in rules_of(kind).items()
        if rule in rules
    ]


def given(kind: type[StageParameters], field: str, text: str) -> StageParameters:
    """Parameters with a text in a field, in whatever lists it stands there."""
    adapter = TypeAdapter(kind.model_fields[field].annotation)
    for value in (text, [text], [[text, 0.0]]):
        try:
            found = adapter.validate_python(value)
        except ValidationError:
            continue
        others = dict.fromkeys(kind.model_fields) | {"engine": "cryolo"}
        return kind.model_construct(**others | {field: found})
    raise AssertionError(f"{field} takes no text")


def refuse(kind: type[StageParameters], field: str, text: str, root: Path) -> None:
    with pytest.raises(MessageRejected, match=f"message: {field} is .* expected"):
        check(kind, field, text, root)


def check(kind: type[StageParameters], field: str, text: str, root: Path) -> None:
    check_message(given(kind, field, text), {field}, roots=(root,), settings={})


def test_every_field_that_may_hold_a_path_or_a_name_has_a_rule() -> None:
    """round3 4: the table is filled by the models; a field without a rule stops it."""
    ours = {kind.__module__.removeprefix("em_platform.cryoem.") for kind in kinds()}
    assert ours >= {f"stages.{s.replace('-', '_')}" for s in STAGES if s != "thumbnail"}
    # Rows of ISPyB and names of recipes are looked up as they come, and the others take
    # what their stage takes.
    assert {m for m in SERVICES.values() if f"services.{m}" not in ours} == {
        *("ctffind", "images", "ispyb_connector", "motioncorr", "processing_recipe")
    }
    assert len(table(*ROOTED)) > 30
    assert len(table(Rule.NAME, Rule.SETTINGS, Rule.MODEL)) > 8


def test_a_new_field_without_a_rule_is_a_fault_of_ours() -> None:
    class Wrong(StageParameters):
        whole: dict[str, Any]

    class Right(StageParameters):
        files: tuple[Path, ...]
        sizes: dict[str, int]

    with pytest.raises(AssertionError, match=r"\.whole may hold a path or a name"):
        rules_of(Wrong)
    assert [*rules_of(Right).values()] == [Rule.PATH, Rule.PLAIN]


@pytest.mark.parametrize(("kind", "field"), table(*ROOTED))
def test_a_path_of_a_message_lies_in_the_roots(
    kind: type[StageParameters], field: str, root: Path
) -> None:
    """round3 4.3 and 4.5, for every field of every message."""
    check(kind, field, f"{root}/new/a.mrc", root)
    for text in (
        *(
            "/etc/passwd",
            "a.mrc",
            "~/a.mrc",
            "",
            "file:///etc/passwd",
            f"{root}x/a.mrc",
        ),
        *(f"{root}/../a.mrc", f"{root}/a/../../a.mrc", f"{root}/link/a.mrc"),
        *(f"{root}/file.mrc", f"{root}/a\0.mrc", f"{root}/a\nb.mrc", f"{root}/\ud800"),
        *(f"{root}/{'a/' * 3000}a.mrc", f"{root}/{'a' * 256}"),
    ):
        if text or rules_of(kind)[field] is Rule.PATTERN:
            refuse(kind, field, text, root)
    if rules_of(kind)[field] is Rule.PATTERN:
        for text in ("/*/*", f"{root}/*/a.mrc", f"{root}/*/../*", f"{root}/*.mrc"):
            refuse(kind, field, text, root)


@pytest.mark.parametrize(("kind", "field"), table(Rule.NAME))
def test_a_name_of_a_message_is_no_path_and_no_second_word(
    kind: type[StageParameters], field: str
) -> None:
    """round3 4.5: names become parts of paths, of tables and of commands."""
    whole = dict.fromkeys(kind.model_fields, "1")
    for text in ("../x", "a/b", "a b", "a\nb", "-rf", "", "x" * 300, "a\0"):
        with pytest.raises(ValidationError) as refused:
            kind.model_validate(whole | {field: text})
        if field.endswith("gpus") and text == "":
            continue
        wrong = {each["loc"][0] for each in refused.value.errors()}
        assert field in wrong, text


@pytest.mark.parametrize(("kind", "field"), table(Rule.SETTINGS))
def test_what_only_the_settings_choose_is_refused_in_a_message(
    kind: type[StageParameters], field: str, root: Path
) -> None:
    """round3 4.2: the program of a service is not the sender's choice."""
    refuse(kind, field, f"{root}/a", root)
    default = kind.model_fields[field].default
    if default:
        check(kind, field, default, root)  # as upstream's models have it


@pytest.mark.parametrize(("kind", "field"), table(Rule.MODEL))
def test_a_model_is_one_of_the_sites(
    kind: type[StageParameters], field: str, root: Path
) -> None:
    """round3 4.2: crYOLO and Topaz load models that can hold code."""
    refuse(kind, field, f"{root}/evil.h5", root)
    refuse(kind, field, "../evil.h5", root)
    for text, is_fine in (("/models/b.h5", True), ("/models/../b.h5", False)):
        parameters, settings = given(kind, field, text), {field: "/models/a.h5"}
        try:
            check_message(parameters, {field}, roots=(root,), settings=settings)
        except MessageRejected:
            assert not is_fine
        else:
            assert is_fine


def test_a_sessions_own_file_names_no_program(tmp_path: Path) -> None:
    """round3 4.2: whoever may put a file beside the movies is not the owner."""
    stages = {"pick": {"cryolo_model_weights": "/models/a.h5"}}
    common = CryoemSettings.model_validate({"session": {"stages": stages}})
    settings = Settings(home=tmp_path, cryoem=common)
    own = settings.sessions_folder / "s/session.yaml"
    own.parent.mkdir(parents=True)
    with open_sessions(settings) as sessions:
        for field in ("cryolo_command", "cryolo_model_weights", "topaz_model"):
            own.write_text(f"stages: {{pick: {{{field}: touch /tmp/x}}}}")
            with pytest.raises(ConfigError, match=f"pick.{field} is 'touch /tmp/x'"):
                sessions.settings_of("s")
        own.write_text("stages: [pick]")
        with pytest.raises(ConfigError, match="correct the file"):
            sessions.settings_of("s")
        own.write_text("stages: {pick: {engine: cryolo}}")
        found = sessions.settings_of("s").stages["pick"]
    assert found == {"engine": "cryolo", **stages["pick"]}


@pytest.mark.parametrize("root", ["", ".", "visits"])
def test_a_root_does_not_depend_on_where_a_service_is_started(root: str) -> None:
    """round3 4.3: an empty or relative root was the working folder."""
    with pytest.raises(ValidationError, match="an absolute folder was expected"):
        CryoemSettings(roots=(root,))


def test_the_roots_are_those_of_the_settings(
    tmp_path: Path,
) -> None:
    """round3 4.3: the sessions, what is made of them, and the store; or `roots`."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "visits").symlink_to(tmp_path / "disk")
    home = tmp_path / "home"
    usual = bound_place_of(Settings(home=home)).roots
    assert usual == (home / "cryoem", home / "cryoem_results", home / "data")
    named = CryoemSettings(roots=(str(tmp_path / "visits"),))
    assert bound_place_of(Settings(home=home, cryoem=named)).roots == (
        tmp_path / "disk",
    )
