"""Settings that would never end, or take all memory."""

import os
from pathlib import Path

import pytest

from em_platform.config import load_settings
from em_platform.config.reading import parse_yaml
from em_platform.errors import ConfigError, FormatError
from em_platform.formats.open import open_volume
from em_platform.formats.source import open_source, read_text

LAUGHS = "\n".join(
    ["l0: &l0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    + [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10)]
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LAUGHS, "stands for more than 100000 values"),
        ("storage: &all\n  root: *all\n", "contains itself"),
        ("storage: " + "[" * 900 + "]" * 900, "more than 50 values in each other"),
        (
            "storage: " + "[" * 100_000 + "]" * 100_000,
            "more than 50 values in each other",
        ),
        ("x: " + "9" * 5000, "not valid YAML"),
        ("x: 2026-99-99", "not valid YAML"),
        ("x: " + "y" * (5 << 20), "more than 4194304 bytes"),
        # round3 4.8: a fault of em-platform, once it was used as a path
        ('home: "a\\0b"', "has the character NUL"),
        # round3 1.2.11: the last won, and 1.1's numbers were taken
        (
            "x: {a: 1}\ny:\n  a: 2\n  b: 3\n  a: 4",
            "key a stands twice, in lines 3 and 5",
        ),
        ("broker: {port: 1, port: 2}", "key port stands twice, in lines 1 and 1"),
        ("broker:\n  port: 12:30", r"broker\.port.*valid integer"),
    ],
    ids=[
        *("laughs", "itself", "deep", "deeper", "digits", "date", "long", "NUL"),
        *("twice", "twice in a line", "sixties"),
    ],
)
def test_a_yaml_that_explodes_is_one_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as raised:
        load_settings(path, environment={})
    assert len(str(raised.value).splitlines()) == 1


def test_only_the_numbers_of_yaml_1_2_are_numbers() -> None:
    """round3 1.2.11: 0777 became 511, and 12:30 became 750."""
    text = "[0777, 12:30, 12:30.5, 1_000, 0b11, 0x1F, -5, 1.5e+3, .5, .inf]"
    assert parse_yaml(text) == [
        *("0777", "12:30", "12:30.5", "1_000", "0b11", 31, -5, 1500.0, 0.5),
        float("inf"),
    ]
    # What a mapping merges may be set anew, whichever of the two is read first.
    merged = "x: &x {a: 1}\ndeep: {y: &y {<<: *x, a: 2}}\nz: {<<: *y}"
    assert parse_yaml(merged)["z"] == {"a": 2}


def test_variables_with_nul_are_one_sentence(tmp_path: Path) -> None:
    """round3 4.8: a fault of em-platform."""
    path = tmp_path / ".env"
    path.write_bytes(b"EM_HOME=a\0b\n")
    with pytest.raises(ConfigError, match="has the character NUL"):
        load_settings(env_file=path, environment={})


def test_a_value_given_by_hand_may_not_explode_either() -> None:
    with pytest.raises(ConfigError, match=r"ingest\.workers"):
        load_settings(environment={}, overrides={"ingest.workers": "&a [*a]"})


def test_aliases_that_stand_for_little_are_kept() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2]] * 2}


def test_what_is_no_file_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="a pipe or a device and not a file"):
            load_settings(path, environment={})
        for read in (open_source, read_text, open_volume):
            with pytest.raises(FormatError, match="a pipe or a device and not a file"):
                read(str(path))
    # As a `.env` it is looked for without being named.
    (tmp_path / "pipe").rename(tmp_path / ".env")
    with pytest.raises(ConfigError, match="a pipe or a device and not a file"):
        load_settings(environment={})


def test_a_pipe_in_a_folder_of_images_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    with pytest.raises(FormatError, match=r"a\.tif: cannot be read \(it is a pipe"):
        open_volume(str(tmp_path))


def test_a_pipe_in_place_of_metadata_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
    os.mkfifo(tmp_path / ".zattrs")
    os.mkfifo(tmp_path / ".zarray")
    with pytest.raises(FormatError, match="has no level 0"):
        open_volume(str(tmp_path))
