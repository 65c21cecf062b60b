"""Profiles: named YAML that builds on other YAML, below the user's own file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from em_platform.config import LayeredSettings, Settings, load_layers
from em_platform.config.profiles import resolved, shipped
from em_platform.errors import ConfigError

TILE = ("acquisition", "simulation", "tile_px")
OVERLAP = ("acquisition", "overlap")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(profile: str, **environment: str) -> LayeredSettings:
    return load_layers(environment={"EM_PROFILE": profile, **environment})


def write(name: str, text: str) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_t1_is_a_real_microscope_with_large_tiles_on_a_real_broker() -> None:
    settings = load("T1").settings
    assert settings.acquisition.simulation.tile_px == 5000
    assert not settings.acquisition.simulated
    assert settings.acquisition.microscope == "T1"
    assert (settings.broker.embedded, settings.broker.port) == (False, 61616)


def test_sim_needs_nothing_but_this_computer() -> None:
    settings = load("sim").settings
    assert settings.acquisition.simulated
    assert settings.broker.embedded
    assert (settings.temdb.url, settings.acquisition.buffer.url) == ("", "")


@pytest.mark.parametrize("name", shipped())
def test_every_profile_that_we_ship_can_be_loaded(name: str) -> None:
    assert isinstance(load(name).settings, Settings)


def test_a_profile_stands_between_the_defaults_and_the_users_file() -> None:
    write("config.yaml", "acquisition: {simulation: {tile_px: 300}}")
    layered = load("T1")
    assert (layered.value_of(TILE), layered.layer_of(TILE)) == (300, "YAML config.yaml")
    assert (layered.value_of(OVERLAP), layered.layer_of(OVERLAP)) == (
        0.11,
        "profile T1",
    )
    assert layered.layer_of(("acquisition", "pixel_nm")) == "profile common"
    assert layered.layer_of(("home",)) == "default"
    above = load("T1", EM_ACQUISITION__OVERLAP="0.2")
    assert (above.value_of(OVERLAP), above.layer_of(OVERLAP)) == (0.2, "environment")


def test_an_own_profile_extends_others_beside_it_and_ours() -> None:
    write("lab/base.yaml", "extends: T1\nacquisition: {rows: 5, columns: 6}")
    write("lab/night.yaml", "acquisition: {columns: 7}\ndask: {workers: 3}")
    path = write(
        "lab/mine.yaml", "extends: [base.yaml, night.yaml]\ndask: {workers: 4}"
    )
    layered = load(path)
    acquisition = layered.settings.acquisition
    assert (acquisition.rows, acquisition.columns) == (5, 7)
    assert acquisition.microscope == "T1"
    assert layered.settings.dask.workers == 4
    assert layered.layer_of(("acquisition", "columns")).endswith("night.yaml")


def test_null_takes_away_what_is_extended_so_that_the_default_is_back() -> None:
    path = write(
        "mine.yaml",
        "extends: T1\nacquisition: {overlap: null, coordinator: null}\nlogging: null",
    )
    layered = load(path)
    default = Settings()
    assert layered.settings.acquisition.overlap == default.acquisition.overlap
    assert layered.layer_of(OVERLAP) == "default"
    assert layered.settings.acquisition.coordinator == default.acquisition.coordinator
    assert layered.settings.logging == default.logging
    assert layered.settings.acquisition.microscope == "T1"


def test_null_in_the_users_file_takes_away_a_setting_and_no_whole_section() -> None:
    write("config.yaml", "acquisition:\n  overlap: null\n  coordinator:\n")
    layered = load("T1")
    assert layered.layer_of(OVERLAP) == "default"
    assert layered.settings.acquisition.coordinator.min_free_gb == 200


def test_variables_are_replaced_in_a_profile() -> None:
    assert load("T1", PIGEON_HOST="scope-pc").settings.broker.host == "scope-pc"
    path = write("mine.yaml", "broker: {host: '${LAB_BROKER:lab}'}")
    assert load(path).settings.broker.host == "lab"
    assert load(path, LAB_BROKER="x").settings.broker.host == "x"


def test_a_profile_can_be_named_in_the_env_file() -> None:
    write(".env", "EM_PROFILE=T1")
    layered = load_layers(environment={})
    assert layered.settings.acquisition.microscope == "T1"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("extends: a.yaml", r"extends itself \(.*a\.yaml -> .*a\.yaml\)"),
        ("extends: b.yaml", "profile b.yaml: neither a file nor one of T1, common"),
        ("extends: 3\n", "extends is 3, expected the name of a profile"),
        ("extends: {a: b}", "extends is .*, expected the name of a profile"),
        ("brokr: {port: 1}", "a.yaml: unknown setting brokr; did you mean broker?"),
        ("- 1", "found a list, expected sections"),
        ("a: [", "not valid YAML"),
        ("broker: {port: big}", r"profile .*a\.yaml: broker.port = 'big'"),
    ],
)
def test_a_faulty_profile_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(write("a.yaml", text))


def test_an_unknown_profile_is_one_sentence_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"one of T1, common, sim; did you mean sim"):
        load("simm")


def test_the_path_of_an_own_profile_holds_in_every_folder(tmp_path: Path) -> None:
    write("mine.yaml", "")
    assert resolved("mine.yaml") == str(tmp_path / "mine.yaml")
    assert resolved("T1") == "T1"


def test_the_option_reaches_the_command_and_its_children() -> None:
    write("mine.yaml", "extends: T1\nweb: {port: 3333}")
    command = (sys.executable, "-m", "em_platform", "--profile", "mine.yaml", "config")
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("web.port")]
    assert line.split()[1] == "3333"
    assert line.endswith("mine.yaml")
