"""Projects of other programs: their readers take them, and their geometry is ours.

Each test of a geometry projects places by the other program's rule and compares with
where the particles are in our images.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import dynamotable
import emfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from em_platform.errors import FormatError, OutputRefused
from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.data_set import simulate
from em_platform.simulation.tilt_series.exports import EXPORTS, export, export_all
from em_platform.simulation.tilt_series.geometry import Tilt, rotation
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.series import TiltImage, tilts_of
from em_platform.simulation.tilt_series.truth import Truth


class Blank:
    """Images without anything: only the truth is of interest here."""

    name = "blank"

    def images(
        self, plan: Plan, stack: int, *, sample: Sample, tilts: Sequence[Tilt]
    ) -> Iterator[TiltImage]:
        empty = np.zeros((plan.camera.height_px, plan.camera.width_px), np.float32)
        yield from (TiltImage(noisy=empty, clean=empty) for _ in tilts)


@pytest.fixture
def two_stacks(plan: Plan) -> Plan:
    return plan.model_copy(update={"stacks": 2})


@pytest.fixture
def output(two_stacks: Plan, tmp_path: Path) -> Path:
    list(simulate(two_stacks, tmp_path / "out", backend=Blank()))
    return tmp_path / "out"


def truth_of(output: Path, stack: int = 0) -> Truth:
    text = (output / f"small-000{stack}" / "truth.json").read_text()
    return Truth.model_validate_json(text)


def seen_px(plan: Plan, truth: Truth) -> np.ndarray:
    """Where particles are in our images, `(tilt, particle, (x, y))` from the corner."""
    middle = [plan.camera.width_px // 2, plan.camera.height_px // 2]
    places = np.array([each.position_nm for each in truth.particles])
    found = []
    for tilt in tilts_of(plan, truth.number):
        on_detector = (rotation(tilt).T @ places.T).T[:, :2]
        shifted = on_detector + np.array(tilt.shift_nm)[::-1]
        found.append(shifted / plan.pixel_nm + middle)
    return np.array(found)


def test_relion_projects_particles_to_where_they_are(
    two_stacks: Plan, output: Path
) -> None:
    folder = export(
        "relion5", [output / "small-0000", output / "small-0001"], output / "r"
    )
    tomograms = starfile.read(folder / "tomograms.star")
    assert list(tomograms["rlnTomoName"]) == ["small-0000", "small-0001"]
    assert set(tomograms["rlnTomoHand"]) == {1.0}
    particles = starfile.read(folder / "particles.star")
    assert set(particles) == {"optics", "particles"}
    own = particles["particles"].query("rlnTomoName == 'small-0001'")
    series = starfile.read(folder / tomograms["rlnTomoTiltSeriesStarFile"][1])
    names = [f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]
    expected = seen_px(two_stacks, truth_of(output, 1))
    for number, row in series.iterrows():
        turn = Rotation.from_euler(
            "xyz", [row["rlnTomoXTilt"], row["rlnTomoYTilt"], row["rlnTomoZRot"]],
            degrees=True,
        )  # fmt: skip
        shift = [row["rlnTomoXShiftAngst"], row["rlnTomoYShiftAngst"]]
        seen = (turn.apply(own[names])[:, :2] + shift) / 20 + [32, 24]
        assert np.abs(seen - expected[number]).max() < 1e-4
        image, _, file = row["rlnMicrographName"].partition("@")
        assert int(image) == number + 1
        assert (folder / file).samefile(output / "small-0001" / "small-0001.mrc")
    doses = series["rlnMicrographPreExposure"]
    assert doses.min() == 0
    assert doses.max() == pytest.approx(4 * 5, rel=0.2)  # e/Å^2
    assert series["rlnDefocusU"].mean() == pytest.approx(30_000, rel=0.1)


def test_relion_turns_the_reference_as_we_do(two_stacks: Plan, output: Path) -> None:
    folder = export("relion5", [output / "small-0000"], output / "r")
    particles = starfile.read(folder / "particles.star")["particles"]
    angles = particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    frame = Rotation.from_euler("z", 90 - two_stacks.tilts.axis_deg, degrees=True)
    for row, each in zip(angles, truth_of(output).particles, strict=True):
        back = Rotation.from_euler("ZYZ", row, degrees=True)
        expected = frame * Rotation.from_quat(each.quaternion_xyzw)
        assert (back * expected).magnitude() < 1e-5


def test_imod_aligns_images_so_that_a_tilt_about_y_remains(
    two_stacks: Plan, output: Path
) -> None:
    folder = export("imod", [output / "small-0000"], output / "i") / "small-0000"
    transforms = np.loadtxt(folder / "small-0000.xf")
    tilts, xtilts = (
        np.loadtxt(folder / f"small-0000.{end}") for end in ("tlt", "xtilt")
    )
    truth = truth_of(output)
    frame = Rotation.from_euler("z", 90 - two_stacks.tilts.axis_deg, degrees=True)
    places = frame.apply([each.position_nm for each in truth.particles]) / 2
    # IMOD counts from the corner of the first pixel: its middle is half the size.
    seen = seen_px(two_stacks, truth) + 0.5 - [32, 24]
    for number, row in enumerate(transforms):
        aligned = seen[number] @ row[:4].reshape(2, 2).T + row[4:] - 0.5
        turn = Rotation.from_euler("xy", [xtilts[number], tilts[number]], degrees=True)
        assert np.abs(aligned - turn.apply(places)[:, :2]).max() < 5e-3
    nominal = np.loadtxt(folder / "small-0000.rawtlt")
    assert nominal.tolist() == [-40, -20, 0, 20, 40]
    directives = dict(
        line.split(" = ")
        for line in (folder / "small-0000.adoc").read_text().splitlines()
    )
    assert directives["setupset.copyarg.pixel"] == "2"
    assert directives["setupset.copyarg.rotation"] == "-5"
    assert directives["setupset.copyarg.gold"] == "8"
    assert np.loadtxt(folder / "small-0000.prexg").tolist() == [[1, 0, 0, 1, 0, 0]] * 5
    assert (folder / "small-0000.mrc").samefile(output / "small-0000/small-0000.mrc")


def test_a_table_of_dynamo_has_the_places_and_turns_of_the_particles(
    two_stacks: Plan, output: Path
) -> None:
    stacks = [output / "small-0000", output / "small-0001"]
    folder = export("dynamo", stacks, output / "d")
    table = dynamotable.read(folder / "particles.tbl")
    assert list(table["tag"]) == list(range(1, 13))
    assert list(table["tomo"]) == [1] * 6 + [2] * 6
    assert table["tilt"].between(0, 180).all()
    assert (table["ymintilt"][0], table["ymaxtilt"][0]) == (-40, 40)
    frame = Rotation.from_euler("z", 5, degrees=True)
    middle = np.array([64, 48, 36])  # of 70 x 53 x 36 pixels in the tomogram's frame
    for (_, row), each in zip(
        table.iterrows(), truth_of(output).particles, strict=False
    ):
        back = Rotation.from_euler(
            "zxz", [row["tdrot"], row["tilt"], row["narot"]], degrees=True
        )
        turn = frame * Rotation.from_quat(each.quaternion_xyzw)
        assert (back * turn).magnitude() < 1e-4
        place = frame.apply(each.position_nm) / 2
        found = np.array([row["x"], row["y"], row["z"]]) - 1
        assert np.allclose(found - place, (found - place).round(), atol=1e-3)
        assert (np.abs(found - place - middle / 2) < [4, 4, 1]).all()
    assert (folder / "tomograms.doc").read_text() == (
        "1 small-0000_rec.mrc\n2 small-0001_rec.mrc\n"
    )


def test_a_motive_list_has_the_same_particles(output: Path) -> None:
    stacks = [output / "small-0000", output / "small-0001"]
    motl = export("motl", stacks, output / "m")
    table = dynamotable.read(export("dynamo", stacks, output / "d") / "particles.tbl")
    _, rows = emfile.read(motl / "motl_all.em")
    rows = np.asarray(rows).reshape(12, 20)
    assert rows[:, 7:10] == pytest.approx(table[["x", "y", "z"]].to_numpy(), abs=1e-3)
    for row, (_, other) in zip(rows, table.iterrows(), strict=True):
        phi, psi, theta = row[16:19]
        turn = Rotation.from_euler("zxz", [phi, theta, psi], degrees=True)
        back = Rotation.from_euler(
            "zxz", [other["tdrot"], other["tilt"], other["narot"]], degrees=True
        )
        assert (back * turn).magnitude() < 1e-4
    _, one = emfile.read(motl / "motl_small-0001.em")
    assert (np.asarray(one).reshape(6, 20) == rows[6:]).all()


def test_info_files_of_eman2_have_tilts_defoci_and_boxes(
    two_stacks: Plan, output: Path
) -> None:
    folder = export("eman2", [output / "small-0000"], output / "e")
    info = json.loads((folder / "info/small-0000_info.json").read_text())
    truth = truth_of(output)
    assert info["apix_unbin"] == 20
    assert (folder / info["tlt_file"]).samefile(output / "small-0000/small-0000.mrc")
    tilts = np.array(info["tlt_params"])
    assert tilts.shape == (5, 5)
    angles = [tilt.tilt_deg for tilt in truth.tilts]
    # EMAN2's rotations are of the axes: each angle has the other sign.
    assert -tilts[:, 3] == pytest.approx(angles, abs=0.01)
    assert tilts[:, 2] == pytest.approx(
        [90 - tilt.axis_deg for tilt in truth.tilts], abs=1
    )
    defocus = [sum(tilt.defocus_nm) / 2000 for tilt in truth.tilts]
    assert info["defocus"] == pytest.approx(defocus)
    assert len(info["boxes_3d"]) == 6
    assert {box[5] for box in info["boxes_3d"]} == {0}
    assert info["class_list"]["0"]["name"] == "blob"


@pytest.mark.parametrize("kind", sorted(EXPORTS))
def test_a_project_is_the_same_again_and_never_takes_the_place_of_others(
    kind: str, two_stacks: Plan, output: Path
) -> None:
    (folder,) = export_all(two_stacks, output, [kind])
    assert folder == output / "exports" / kind
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    export_all(two_stacks, output, [kind])
    assert first == {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    (folder / "notes.txt").write_text("of a user")
    with pytest.raises(OutputRefused, match=r"was changed \(notes.txt\)"):
        export_all(two_stacks, output, [kind])
    assert (folder / "notes.txt").exists()


def test_what_is_no_stack_is_refused(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text("{}")
    with pytest.raises(FormatError, match="truth of a simulated stack"):
        export("imod", [tmp_path], tmp_path / "i")
    assert not (tmp_path / "i").exists()
