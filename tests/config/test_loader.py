from collections.abc import Mapping
from pathlib import Path

import pytest

from em_platform.config import LayeredSettings, Settings, load_layers, load_settings
from em_platform.errors import ConfigError

SEARCH = ("stitching", "match", "search_px")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(
    yaml: str = "",
    *,
    dotenv: str = "",
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> LayeredSettings:
    if yaml:
        Path("config.yaml").write_text(yaml, encoding="utf-8")
    if dotenv:
        Path(".env").write_text(dotenv, encoding="utf-8")
    return load_layers(environment=environment or {}, overrides=overrides)


def test_without_any_layer_every_value_is_a_default() -> None:
    layered = load()
    assert layered.settings == Settings()
    assert layered.layer_of(SEARCH) == "default"


def test_each_layer_wins_over_those_before_it_and_is_named() -> None:
    yaml = "stitching: {match: {search_px: 201}}"
    dotenv = "EM_STITCHING__MATCH__SEARCH_PX=202"
    environment = {"EM_STITCHING__MATCH__SEARCH_PX": "203"}
    overrides = {"stitching.match.search_px": "204"}
    for expected_px, expected_layer, layered in (
        (201, "YAML config.yaml", load(yaml)),
        (202, ".env", load(yaml, dotenv=dotenv)),
        (203, "environment", load(yaml, dotenv=dotenv, environment=environment)),
        (
            204,
            "command line",
            load(yaml, dotenv=dotenv, environment=environment, overrides=overrides),
        ),
    ):
        assert layered.settings.stitching.match.search_px == expected_px
        assert layered.layer_of(SEARCH) == expected_layer


def test_a_layer_changes_only_what_it_names() -> None:
    layered = load(
        "broker: {port: 1234}\nstitching: {solve: {model: affine}}",
        environment={"EM_BROKER__HOST": "scope-pc"},
    )
    assert layered.settings.broker.port == 1234
    assert layered.settings.broker.host == "scope-pc"
    assert layered.settings.stitching.match == Settings().stitching.match


def test_an_empty_section_changes_nothing() -> None:
    assert load("storage:\nbroker:\n  # port: 1\n").settings == Settings()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("EM_DASK__WORKERS", "7", 7),
        ("EM_BROKER__TLS", "true", True),
        ("EM_STITCHING__TILE__FLAT_FIELD", "none", "none"),
        ("EM_STITCHING__TILE__GREY_RANGE", "[100, 4000]", (100, 4000)),
        ("EM_STITCHING__TILE__GREY_RANGE", "null", None),
        ("EM_STITCHING__SOLVE__STAGE_WEIGHT", "1e-3", 0.001),
        ("EM_ACQUISITION__MICROSCOPE", "12", "12"),
        ("EM_HOME", "/data: em", Path("/data: em")),
    ],
)
def test_text_of_the_environment_becomes_the_type_of_the_setting(
    name: str, text: str, expected: object
) -> None:
    layered = load(environment={name: text})
    path = tuple(name.removeprefix("EM_").lower().split("__"))
    assert layered.value_of(path) == expected


def test_names_of_other_systems_are_honoured_but_ours_win() -> None:
    others = {"EM_DATA_DIR": "/data", "PIGEON_HOST": "scope", "PIGEON_PORT": "61613"}
    settings = load(environment=others).settings
    assert settings.storage.root == "/data"
    assert (settings.broker.host, settings.broker.port) == ("scope", 61613)
    ours = load(environment={**others, "EM_STORAGE__ROOT": "/ours"}).settings
    assert ours.storage.root == "/ours"


def test_yaml_takes_variables_with_defaults_from_environment_and_env_file() -> None:
    yaml = """
storage: {root: "${BUCKET}/em", endpoint_url: "${ENDPOINT:http://localhost:9000}"}
dask: {workers: "${WORKERS:3}"}
stitching: {tile: {percentiles: ["${LOW:1.5}", 98]}}
"""
    settings = load(yaml, dotenv="WORKERS=5", environment={"BUCKET": "s3://b"}).settings
    assert settings.storage.root == "s3://b/em"
    assert settings.storage.endpoint_url == "http://localhost:9000"
    assert settings.dask.workers == 5
    assert settings.stitching.tile.percentiles == (1.5, 98)


def test_the_yaml_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("web: {port: 3333}")
    layered = load("web: {port: 1}", environment={"EM_CONFIG_FILE": str(path)})
    assert layered.settings.web.port == 3333
    assert layered.layer_of(("web", "port")) == f"YAML {path}"


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (
            {"yaml": "stitching: {matches: {}}"},
            "YAML config.yaml: unknown setting stitching.matches; "
            "did you mean stitching.match?; "
            "'em-platform config' lists those that exist",
        ),
        (
            {"yaml": "storage: {rooot: x}"},
            "YAML config.yaml: unknown setting storage.rooot; "
            "did you mean storage.root?; "
            "'em-platform config' lists those that exist",
        ),
        (
            {"dotenv": "EM_STITCHING__FOO=1"},
            ".env: EM_STITCHING__FOO is an unknown setting stitching.foo",
        ),
        (
            {"dotenv": "EM_BROKER__PASSWORD=hunter2"},
            ".env: section broker: a password was found without a username, both were "
            "expected; set broker.username too, or remove broker.password",
        ),
        (
            {"environment": {"EM_STITCHING__FOO": "1"}},
            "environment: EM_STITCHING__FOO is an unknown setting stitching.foo",
        ),
        (
            {"environment": {"EM_STORAGE_ROOT": "1"}},
            "environment: EM_STORAGE_ROOT is an unknown setting storage_root; "
            "did you mean EM_STORAGE__ROOT?",
        ),
        (
            {"environment": {"EM_STORAGE__ROOT__DEEP": "1"}},
            "environment: EM_STORAGE__ROOT__DEEP is an unknown setting",
        ),
        (
            {"overrides": {"dask.worker": "1"}},
            "command line: unknown setting dask.worker; did you mean dask.workers?",
        ),
        (
            {"yaml": "dask: {workers: many}"},
            "YAML config.yaml: dask.workers = 'many': Input should be a valid integer",
        ),
        (
            {"dotenv": "EM_BROKER__PORT=99999"},
            ".env: broker.port = 99999: Input should be less than 65536",
        ),
        (
            {"environment": {"EM_BROKER__PORT": ""}},
            "environment: broker.port = '': Input should be a valid integer",
        ),
        (
            {"overrides": {"stitching.solve.model": "magic"}},
            "command line: stitching.solve.model = 'magic': Input should be ",
        ),
        (
            {"yaml": "storage: {root: '${NOWHERE}'}"},
            "YAML config.yaml: storage.root: ${NOWHERE} has no value and no default; "
            "set NOWHERE or write ${NOWHERE:default}",
        ),
        (
            {"yaml": "storage: here"},
            "YAML config.yaml: section storage is 'here', expected settings "
            "(root, endpoint_url, access_key, secret_key); write them below it",
        ),
        (
            {"yaml": "- one\n- two"},
            "YAML config.yaml: found a list, expected sections; "
            "start it with a section such as 'storage:'",
        ),
        (
            {"environment": {"EM_STITCHING__RENDER__SHARD_PX": "1000"}},
            "environment: section stitching.render: shard_px 1000 is not a multiple "
            "of chunk_px 512; choose for instance 4096",
        ),
        ({"yaml": "a: [1"}, "YAML config.yaml: not valid YAML ("),
    ],
)
def test_each_mistake_is_one_sentence_that_names_its_layer(
    layers: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**layers)  # type: ignore[arg-type]
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_all_wrong_values_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load("dask: {workers: a}", environment={"EM_BROKER__PORT": "b"})
    assert "YAML config.yaml: dask.workers = 'a'" in str(caught.value)
    assert "environment: broker.port = 'b'" in str(caught.value)


def test_a_wrong_secret_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"storage.secret_key = the given") as caught:
        load("storage: {secret_key: 12345678}")
    assert "12345678" not in str(caught.value)


def test_a_named_file_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"YAML absent.yaml: cannot be read"):
        load_settings(Path("absent.yaml"), environment={})
    with pytest.raises(ConfigError, match=r"\.env: no file absent.env"):
        load_settings(env_file=Path("absent.env"), environment={})


def test_a_file_that_is_not_text_is_one_sentence() -> None:
    Path("config.yaml").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ConfigError, match=r"YAML config.yaml: not valid YAML"):
        load()
    Path("config.yaml").unlink()
    Path(".env").write_bytes(b"A=\xff")
    with pytest.raises(ConfigError, match=r"\.env: .*cannot be read"):
        load()
