"""`em-platform simulate`: a plan in, stacks out; what is wrong is one sentence."""

import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from em_platform.cli import main

PLAN = """
name: dots
pixel_nm: 2
tilts: {first_deg: -30, step_deg: 30, tilts: 3}
camera: {width_px: 48, height_px: 48}
ice: {thickness_nm: 60}
particles: [{name: dot, file: dot.mrc}]
assembly: {kind: crowded, options: {counts: {dot: 3}}}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan and the map it names."""
    z, y, x = np.indices((16, 16, 16)) - 8
    dot = 5 * np.exp(-(z**2 + y**2 + x**2) / 8) * (z**2 + y**2 + x**2 < 36)
    with mrcfile.new(tmp_path / "dot.mrc", dot.astype(np.float32)) as file:
        file.voxel_size = 10.0
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The status, what came on stdout, and on stderr."""
    try:
        main(["simulate", *map(str, arguments)])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    else:
        status = 0
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_a_plan_becomes_stacks_and_their_names_are_printed_as_json(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    status, shown, _ = run(plan, "--output", output, "--json", capsys=capsys)
    assert status == 0
    (stack,) = json.loads(shown)["stacks"]
    assert stack == {
        "stack": "dots-0000",
        "folder": str(output / "dots-0000"),
        "tilts": 3,
        "made": 3,
    }
    assert mrcfile.validate(output / "dots-0000" / "dots-0000.mrc")
    status, shown, _ = run(plan, "--output", output, "--workers", 1, capsys=capsys)
    assert status == 0
    assert shown.endswith("dots-0000: 3 tilts, kept as it stands\n")
    options = "--output", output, "--export", "imod,relion5"
    status, shown, _ = run(plan, *options, capsys=capsys)
    assert status == 0
    assert f"{output}/exports/imod: written\n" in shown
    assert (output / "exports/relion5/tilt_series/dots-0000.star").is_file()
    options = "--output", output, "--export", "imod,spider"
    status, _, errors = run(plan, *options, capsys=capsys)
    assert status == 2
    assert "found spider, one of dynamo, eman2, imod, motl, relion5" in errors


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("dot.mrc", "lost.mrc", "found no file"),
        ("name: dots", "name: [dots", "is no YAML"),
        (
            "pixel_nm: 2",
            "pixel_nm: -2",
            "pixel_nm: found -2, expected at least 0.0001",
        ),
        (
            "pixel_nm: 2",
            "pixel_a: 20",
            "pixel_a: is no known name; did you mean pixel_nm?",
        ),
        # round3 1.2.10: was "sede: Extra inputs are not permitted".
        (
            "name: dots",
            "name: dots\nsede: 1",
            "sede: is no known name; did you mean seed?",
        ),
        ("file: dot.mrc", "file: dot.mrc, voxle_nm: 1", "did you mean voxel_nm?"),
        ("pixel_nm: 2", "pixel_nm: 20", "both are in nm (1 nm is 10 Å)"),
        ("file: dot.mrc", "file: dot.mrc, voxel_nm: 10", "wide and the ice is 60.0 nm"),
        ("dot: 3", "dot: 900", "found room for"),
        ("dot: 3", "spot: 3", "found the particle spot"),
        ("kind: crowded", "kind: lonely", "found the assembler 'lonely'"),
        ("step_deg: 30", "step_deg: 29, group: 0", "tilts.group"),
        ("tilts: 3", "tilts: 6", "less than 90 was expected"),
    ],
)
def test_a_wrong_plan_is_one_sentence_and_leaves_no_stack(
    plan: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: str,
    after: str,
    expected: str,
) -> None:
    assert before in PLAN
    plan.write_text(PLAN.replace(before, after, 1))
    status, shown, error = run(plan, "--output", tmp_path / "out", capsys=capsys)
    assert (status, shown) == (1, "")
    assert expected in error
    assert error.startswith("em-platform: ")
    assert error.count("\n") == 1
    left = {path.name for path in (tmp_path / "out").glob("*")}
    assert left <= {"em_platform.json", "library"}


def test_a_file_that_is_no_map_is_one_sentence(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dot.mrc").write_bytes(b"not a map")
    _, _, error = run(plan, "--output", tmp_path / "out", capsys=capsys)
    assert "it is no MRC map" in error


def test_a_stack_that_the_plan_has_not_is_one_sentence(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, error = run(plan, "--output", tmp_path / "o", "--stack", 1, capsys=capsys)
    assert "has the stacks 0 to 0, number 1 is none of them" in error


@pytest.mark.parametrize("place", [".", "plan.yaml", "other", "dots-0000"])
def test_nothing_is_put_over_what_others_made(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    for name in ("other", "other/dots-0000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("three weeks of work")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    target = tmp_path / ("other/dots-0000" if place == "dots-0000" else place)
    status, _, _ = run(plan, "--output", target, "--overwrite", capsys=capsys)
    assert status == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before
