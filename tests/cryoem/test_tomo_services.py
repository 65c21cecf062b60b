"""The recipe of a tilt series run to its end: tomogram, rows, pictures, project."""

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
from sqlalchemy import select

from em_platform.config.cryoem import SessionSettings
from em_platform.cryoem.ispyb import run_command, tables
from em_platform.cryoem.optics import stages_of
from em_platform.cryoem.project import JobReport, record_job
from em_platform.cryoem.project.pipeline import PIPELINE
from em_platform.cryoem.recipes import placeholders_of, read_recipe
from em_platform.cryoem.services import load_service
from em_platform.cryoem.services.local import StepRun, completed, run_recipe
from em_platform.cryoem.services.process_recipe import requested
from em_platform.cryoem.services.step import Outgoing, ServiceContext, handle_message
from em_platform.errors import OutputRefused, PlatformError

ANGLES = (-40.0, -20.0, 0.0, 20.0, 40.0)
SIDE_PX, PIXEL_A = 96, 8.0
RECIPE = "em-tomo-align"
FIT = {
    "defocus_u": 15000.0,
    "defocus_v": 14900.0,
    "astigmatism_angle": 10.0,
    "cc_value": 0.2,
    "resolution": 8.0,
}


def tilt_image(angle_deg: float) -> np.ndarray:
    """Blobs in ice, tilted about the image's y axis."""
    rng = np.random.default_rng(5)
    x, y = rng.uniform(-40, 40, (2, 50))
    z = rng.uniform(-8, 8, 50)
    angle = np.deg2rad(angle_deg)
    middle = (SIDE_PX - 1) / 2
    u = middle + x * np.cos(angle) + z * np.sin(angle)
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    image = np.full((SIDE_PX, SIDE_PX), 100.0)
    for at_u, at_v in zip(u, middle + y, strict=True):
        image -= 20 * np.exp(-((columns - at_u) ** 2 + (rows - at_v) ** 2) / 8)
    return np.asarray(rng.normal(image, 3), np.float32)


def corrected(project: Path, number: int, angle_deg: float) -> Path:
    """A tilt as the recipe before leaves it."""
    name = f"TS_1_{number:03}_{angle_deg:.1f}_20260101_1200_fractions.mrc"
    path = project / "MotionCorr/job002/Movies" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path) as file:
        file.set_data(tilt_image(angle_deg))
        file.voxel_size = PIXEL_A
    report = JobReport(
        job_type="relion.ctffind.ctffind4",
        input_file=str(path),
        output_file=f"{project}/CtfFind/job003/Movies/{path.stem}.ctf",
        experiment_type="tomography",
        results=FIT,
    )
    record_job(report)
    return path


def run(place: ServiceContext, **given: Any) -> list[StepRun]:
    wanted = placeholders_of(read_recipe(RECIPE))
    parameters = completed(given, recipe=RECIPE, wanted=wanted, place=place)
    _, content = requested({"recipes": [RECIPE], "parameters": parameters})
    return list(run_recipe(content, place, guid="g"))


def register(place: ServiceContext, given: dict[str, Any], images: list[Path]) -> None:
    """Movies in ISPyB, as the recipe before leaves them."""
    known = completed(given, recipe=RECIPE, wanted={"dcid", "appid"}, place=place)
    for image in images:
        movie = {"ispyb_command": "insert_movie", "movie_path": str(image)}
        with place.ispyb.write() as writer:
            run_command(writer, movie, parameters=known, environment={})


def rows(place: ServiceContext, table: Any) -> list[dict[str, Any]]:
    with place.ispyb.engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def test_a_tilt_series_goes_from_its_images_to_a_denoised_tomogram(
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    images = [corrected(project, n, angle) for n, angle in enumerate(ANGLES, 1)]
    place = ServiceContext(
        ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}",
        stages=stages_of(SessionSettings(cs_mm=1.4, amplitude_contrast=0)),
    )
    stack = project / "Tomograms/job006/tomograms/TS_1_stack.mrc"
    given = {
        "stack_file": str(stack),
        "input_file_list": str(
            [[str(i), a] for i, a in zip(images, ANGLES, strict=True)]
        ),
        "pixel_size": str(PIXEL_A),
        "kv": "300",
        "tilt_axis": "0",
    }
    register(place, given, images)
    volume = stack.with_name("TS_1_stack_Vol.mrc")
    for number in range(2):  # the second time nothing is made, and nothing doubled
        ran = run(place, **given)
        assert [str(each.error) for each in ran if each.error] == []
        assert not any(each.is_outside for each in ran)
        if number == 0:
            made = volume.stat().st_mtime_ns
        assert volume.stat().st_mtime_ns == made

    denoised = project / "Denoise/job007/tomograms/TS_1_stack_Vol.denoised.mrc"
    assert denoised.is_file()
    names = ("thumbnail.jpeg", "movie.png")
    pictures = [
        *(
            path.with_name(f"{path.stem}_{n}")
            for path in (stack, volume)
            for n in names
        ),
        *(volume.with_name(f"{volume.stem}_proj{axes}.jpeg") for axes in ("XY", "XZ")),
        stack.with_name("TS_1_stack_alignment.jpeg"),
        *(denoised.with_name(f"{denoised.stem}_{n}") for n in names),
    ]
    assert [path.name for path in pictures if not path.is_file()] == []

    check_rows(place, stack, volume)
    aligned = starfile.read(project / "AlignTiltSeries/job005/tilt_series/TS_1.star")
    assert list(aligned.rlnTomoNominalStageTiltAngle) == list(ANGLES)
    assert list(aligned.rlnDefocusU) == [15000.0] * len(ANGLES)
    edges = starfile.read(project / PIPELINE)["pipeline_input_edges"]
    taken_by = set(edges.rlnPipeLineEdgeProcess)
    assert {"Tomograms/job006/", "Denoise/job007/"} <= taken_by
    place.close()


def check_rows(place: ServiceContext, stack: Path, volume: Path) -> None:
    """What ISPyB and tables have of the tomogram is what stands on disk."""
    for star in (
        "AlignTiltSeries/job005/aligned_tilt_series",
        "Denoise/job007/tomograms",
    ):
        listed = starfile.read(stack.parents[3] / f"{star}.star")  # round3 1.1.2
        assert list(listed.rlnSphericalAberration) == [1.4], star
        assert list(listed.rlnAmplitudeContrast) == [0], star
    (tomogram,) = rows(place, tables.TOMOGRAM)
    with mrcfile.open(volume) as file:
        depth, height, width = file.data.shape
    assert (tomogram["sizeX"], tomogram["sizeY"]) == (width, height)
    assert (tomogram["sizeZ"], tomogram["pixelSpacing"]) == (depth, PIXEL_A)
    assert tomogram["stackFile"] == str(stack)
    folder = Path(tomogram["fileDirectory"])
    columns = ("volumeFile", "centralSliceImage", "tomogramMovie", "xyShiftPlot")
    shown = [folder / tomogram[name] for name in (*columns, "projXY", "projXZ")]
    assert [path.name for path in shown if not path.is_file()] == []
    angles = [
        row["refinedTiltAngle"] for row in rows(place, tables.TILT_IMAGE_ALIGNMENT)
    ]
    assert np.allclose(np.diff(angles), 20)
    kinds = [row["processingType"] for row in rows(place, tables.PROCESSED_TOMOGRAM)]
    assert sorted(kinds) == ["Alignment", "Denoised", "Stack"]
    (program,) = rows(place, tables.AUTO_PROC_PROGRAM)
    assert program["processingStatus"] == 1


@pytest.mark.parametrize(
    "form", ["P_1_{:03}_{:.2f}_20260101_fractions", "P_1_{:03}[{:.2f}]-7"]
)
def test_angles_are_those_of_the_names_and_without_a_fit_there_is_a_tomogram(
    tmp_path: Path, form: str
) -> None:
    """round3 6.2: `path_pattern` of facility names, and no CTF job in the project."""
    project = tmp_path / "project"
    place = ServiceContext(ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}")
    movies = project / "MotionCorr/job002/[1]"
    movies.mkdir(parents=True)
    for number, angle in enumerate(ANGLES[1:4], 1):
        image, stem = tilt_image(angle), movies / form.format(number, angle)
        mrcfile.write(f"{stem}.mrc", image, voxel_size=PIXEL_A)
    stack = project / "Tomograms/job006/tomograms/P_1_stack.mrc"
    given = {"stack_file": str(stack), "path_pattern": f"{movies}/*.mrc"}
    register(place, given, list(movies.iterdir()))
    for path in list(movies.iterdir()):
        # Newer and of the same angle: the sum of every other frame is no tilt.
        path.with_name(f"{path.stem}_EVN.mrc").write_bytes(path.read_bytes())
    ran = run(place, **given, pixel_size=str(PIXEL_A), tilt_axis="0")
    assert [str(each.error) for each in ran if each.error] == []
    aligned = starfile.read(project / "AlignTiltSeries/job005/tilt_series/P_1.star")
    assert list(aligned.rlnTomoNominalStageTiltAngle) == [-20.0, 0.0, 20.0]
    assert "rlnDefocusU" not in aligned.columns
    assert not any("_EVN" in name for name in aligned.rlnMicrographName)
    place.close()


def test_a_network_gets_the_halves_of_the_tomogram(tmp_path: Path) -> None:
    project = tmp_path / "project"
    images = [corrected(project, n, angle) for n, angle in enumerate(ANGLES, 1)]
    stack = project / "Tomograms/job006/tomograms/TS_1_stack.mrc"
    message = {
        **{"stack_file": str(stack), "pixel_size": PIXEL_A, "tilt_axis": 0},
        "input_file_list": [[str(i), a] for i, a in zip(images, ANGLES, strict=True)],
        "denoise_method": "n2n",
    }

    def asked() -> dict[str, Any]:
        place = ServiceContext(ispyb_url="sqlite://")
        sent = handle_message(load_service("AreTomoAlign"), {}, message, place)
        [body] = [each.body for each in sent if each.queue == "denoise"]
        return {k: v for k, v in body.items() if k in ("method", "even", "odd")}

    for image in images[:-1]:
        for mark, share in (("EVN", 0.25), ("ODD", 0.75)):
            half = image.with_name(f"{image.stem}_{mark}.mrc")
            mrcfile.write(half, np.float32(share) * mrcfile.read(image))
    # Without all of them there is a tomogram; the next step says what it lacks.
    assert asked() == {"method": "n2n"}
    for mark in ("EVN", "ODD"):
        half = images[-1].with_name(f"{images[-1].stem}_{mark}.mrc")
        mrcfile.write(half, mrcfile.read(images[-1]) / 2)
    found = asked()
    names = ("TS_1_stack_EVN_Vol.mrc", "TS_1_stack_ODD_Vol.mrc")
    assert (found["even"], found["odd"]) == tuple(
        str(stack.with_name(n)) for n in names
    )
    whole = mrcfile.read(stack.with_name("TS_1_stack_Vol.mrc"))
    even, odd = (mrcfile.read(found[half]) for half in ("even", "odd"))
    assert np.abs(even + odd - whole).max() < 1e-3 * whole.std()
    assert even.std() < 0.7 * odd.std()


def test_a_series_that_cannot_be_aligned_fails_visibly(tmp_path: Path) -> None:
    place = ServiceContext(ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}")
    stack = tmp_path / "p/Tomograms/job006/tomograms/TS_1_stack.mrc"
    ran = run(place, stack_file=str(stack), pixel_size="8")
    failed = [each for each in ran if each.error]
    assert [each.service for each in failed] == ["AreTomoAlign"]
    (program,) = rows(place, tables.AUTO_PROC_PROGRAM)
    assert program["processingStatus"] == 0
    assert program["processingMessage"] == str(failed[0].error)[:255]
    assert not list(tmp_path.rglob("*.mrc"))
    # Live, the sender of dead letters gets it; what would follow is not sent.
    sent: list[Outgoing] = []
    handler = load_service("AreTomoAlign")
    message = {"stack_file": str(stack), "pixel_size": 8}
    with pytest.raises(PlatformError):
        handle_message(handler, {}, message, place, on_failure=sent)
    assert [each.queue for each in sent] == ["failure"]
    place.close()


def test_a_stack_of_others_is_not_replaced(tmp_path: Path) -> None:
    project = tmp_path / "p"
    images = [corrected(project, n, angle) for n, angle in enumerate(ANGLES[1:4], 1)]
    stack = project / "Tomograms/job006/tomograms/TS_1_stack.mrc"
    stack.parent.mkdir(parents=True)
    stack.write_bytes(b"of AreTomo")
    pairs = [[str(i), a] for i, a in zip(images, ANGLES[1:4], strict=True)]
    message = {"stack_file": str(stack), "pixel_size": 8, "input_file_list": pairs}
    with pytest.raises(OutputRefused, match=r"TS_1_stack\.mrc does not lead to"):
        handle_message(
            load_service("AreTomoAlign"),
            {},
            message,
            ServiceContext(ispyb_url="sqlite://"),
        )
    assert stack.read_bytes() == b"of AreTomo"
