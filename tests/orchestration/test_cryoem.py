"""A session's movies in Dagster: found by the sensor, processed, judged, and shown."""

import json
import sys
from pathlib import Path

import dagster as dg
import mrcfile
import numpy as np
import pytest
import starfile
from sqlalchemy import func, select

from em_platform.config import load_settings
from em_platform.cryoem.image_files import write_mrc
from em_platform.cryoem.ispyb.tables import METADATA
from em_platform.cryoem.recipes import placeholders_of, read_recipe
from em_platform.cryoem.services.local import completed, place_of, run_recipe
from em_platform.cryoem.services.process_recipe import requested
from em_platform.cryoem.services.step import ServiceContext
from em_platform.cryoem.sessions import tomography
from em_platform.cryoem.sessions.processing import open_sessions
from em_platform.cryoem.sessions.records import PROJECT, record_movie
from em_platform.definitions import defs
from em_platform.errors import ToolMissing
from em_platform.resources.cryoem import CryoemSessions
from em_platform.resources.storage import Configuration
from em_platform.sensors.cryoem import cryoem_session_sensor
from em_platform.simulation.single_particles import ParticlePlan, movie, view_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PLAN = ParticlePlan(
    views=2,
    particles=12,
    side_px=384,
    pixel_a=3.0,
    signal_to_noise=1.0,
    ice=0.15,
    seed=2,
)
DRIFT_PX = 4.0
OWN = "particle_diameter_a: 150\npixel_size_a: 3\nvoltage_kv: 300\ndose_per_frame: 1\n"


@pytest.fixture
def session(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `grid1` with two movies that arrived long ago."""
    folder = home / "cryoem/grid1"
    folder.mkdir(parents=True)
    (folder / "session.yaml").write_text(OWN)
    monkeypatch.setenv("EM_CRYOEM__SETTLE_S", "0")
    monkeypatch.setenv("EM_CRYOEM__QUIET_S", "0")
    truth = {}
    for number in range(2):
        frames, still, drift = movie(PLAN, number, frames=4, drift_px=DRIFT_PX)
        truth[f"FoilHole_{number}_fractions"] = {
            "drift_px": drift.tolist(),
            "defocus_a": still.defocus_a,
            "particles_px": still.points.tolist(),
            "views": still.views.tolist(),
        }
        with mrcfile.new(folder / f"FoilHole_{number}_fractions.mrc") as file:
            file.set_data(frames)
    views = np.stack([view_of(PLAN, number) for number in range(PLAN.views)])
    write_mrc(folder / "views.map", views, pixel_size_a=PLAN.pixel_a)
    facts = {"movies": truth, "views": "views.map"}
    (folder / "truth.json").write_text(json.dumps(facts))
    return folder


def tick(
    instance: dg.DagsterInstance, cursor: str | None = None
) -> dg.SensorResult | dg.SkipReason:
    cryoem = CryoemSessions(configuration=Configuration())
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"cryoem": cryoem}
    ) as context:
        found = cryoem_session_sensor(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def run(
    instance: dg.DagsterInstance, request: dg.RunRequest
) -> dg.ExecuteInProcessResult:
    assert request.job_name
    return defs.resolve_job_def(request.job_name).execute_in_process(
        partition_key=request.partition_key, instance=instance, raise_on_error=False
    )


def test_a_session_goes_from_movies_to_classes(
    instance: dg.DagsterInstance, session: Path
) -> None:
    found = tick(instance)
    assert isinstance(found, dg.SensorResult)
    requests = found.run_requests or []
    assert [(r.job_name, r.partition_key) for r in requests] == [
        ("process_particles", "grid1~FoilHole_0_fractions"),
        ("process_particles", "grid1~FoilHole_1_fractions"),
    ]
    assert {r.tags["em/part"] for r in requests} == {"cryoem"}
    for added in found.dynamic_partitions_requests or []:
        instance.add_dynamic_partitions(
            added.partitions_def_name, list(added.partition_keys)
        )
    of_movies = {"motion_matches_truth", "defocus_matches_truth", "picks_match_truth"}
    for request in requests:
        assert of_movies <= passed(run(instance, request))
    found = tick(instance, found.cursor)
    assert isinstance(found, dg.SensorResult)
    [classify] = found.run_requests or []
    assert (classify.job_name, classify.partition_key) == (
        *("classify_particles", "grid1"),
    )
    instance.add_dynamic_partitions("sessions", ["grid1"])
    assert passed(run(instance, classify)) == {
        *("classes_match_truth", "averages_match_truth")
    }
    assert isinstance(tick(instance, found.cursor), dg.SkipReason)
    # Nothing is computed twice: the same files stay.
    folder = load_settings().home / "cryoem_results"
    before = states(folder)
    assert run(instance, requests[0]).success
    assert before == states(folder)
    check_project(folder / "grid1" / PROJECT)
    for asset in ("micrographs", "particle_picks", "classes"):
        shown = instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert shown is not None
        metadata = shown.asset_materialization.metadata  # type: ignore[union-attr]
        assert "data:image/webp" in str(metadata["picture"].value)


def check_project(project: Path) -> None:
    """Both movies are in one project, with picks and particles, and the classes."""
    assert len(starfile.read(project / "AutoPick/job004/autopick.star")) == 2
    assert counts("MotionCorrection", "CTF", "ParticlePicker") == [2, 2, 2]
    batch = starfile.read(project / "Select/job006/particles_split1.star")
    assert len(batch["particles"]) > 15
    [groups, classes] = counts("ParticleClassificationGroup", "ParticleClassification")
    assert groups == 1
    assert len(list((project / "Class2D/job007").glob("*.jpeg"))) == classes + 1
    edges = starfile.read(project / "default_pipeline.star")["pipeline_input_edges"]
    last = ["Extract/job005/particles.star", "Select/job006/particles_split1.star"]
    assert list(edges.rlnPipeLineEdgeFromNode)[-2:] == last


def passed(result: dg.ExecuteInProcessResult) -> set[str]:
    """The checks of a run, all of which passed."""
    assert result.success
    checks = result.get_asset_check_evaluations()
    assert [c.description for c in checks if not c.passed] == []
    return {c.check_name for c in checks}


def states(folder: Path) -> dict[Path, object]:
    """When each result was written, and the bytes of what a project has of them."""
    return {
        path: path.read_bytes() if PROJECT in path.parts else path.stat().st_mtime_ns
        for path in folder.rglob("*")
        # Each job has a copy of the pipeline as it was then.
        if path.is_file() and path.name != "default_pipeline.star"
    }


def counts(*names: str) -> list[int]:
    """How many rows the tables have."""
    place = place_of(load_settings())
    with place.ispyb.engine.connect() as connection:
        asked = [select(func.count()).select_from(METADATA.tables[n]) for n in names]
        found = [connection.execute(each).scalar_one() for each in asked]
    place.close()
    return found


ANGLES = (-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0)
SIDE_PX = 128
N2N = "denoise: {method: n2n}"


def tilt_image(angle_deg: float, shift: tuple[float, float]) -> np.ndarray:
    """Blobs in ice, tilted about the image's y axis and moved by `(x, y)` px."""
    rng = np.random.default_rng(5)
    x, y = rng.uniform(-50, 50, (2, 60))
    z = rng.uniform(-12, 12, 60)
    angle = np.deg2rad(angle_deg)
    middle = (SIDE_PX - 1) / 2
    u = middle + shift[0] + x * np.cos(angle) + z * np.sin(angle)
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    image = np.full((SIDE_PX, SIDE_PX), 100.0)
    for at_u, at_v in zip(u, middle + shift[1] + y, strict=True):
        image -= 20 * np.exp(-((columns - at_u) ** 2 + (rows - at_v) ** 2) / 8)
    return image


def write_sample(path: Path) -> None:
    """The blobs of `tilt_image` as a volume, in pixels of the images."""
    rng = np.random.default_rng(5)
    x, y = rng.uniform(-50, 50, (2, 60))
    z = rng.uniform(-12, 12, 60)
    along = [
        np.exp(-((np.arange(side)[:, None] - (side - 1) / 2 - at) ** 2) / 8)
        for side, at in ((64, z), (SIDE_PX, y), (SIDE_PX, x))
    ]
    volume = np.einsum("zn,yn,xn->zyx", *along, optimize=True)
    with mrcfile.new(path) as file:
        file.set_data(volume.astype(np.float32))
        file.voxel_size = 5.0


@pytest.fixture
def tilts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[float, tuple[float, float]]:
    """A session with a tilt series of two frames a tilt, and how each is moved."""
    folder = home / "cryoem/grid2"
    folder.mkdir(parents=True)
    (folder / "session.yaml").write_text(
        "pixel_size_a: 5\nvoltage_kv: 300\ntilt_axis_deg: 0\n"
        "tomogram_bin: 2\ntomogram_thickness_a: 320\n"
        "stages: {reconstruct: {halves: true}}\n"
    )
    monkeypatch.setenv("EM_CRYOEM__SETTLE_S", "0")
    rng = np.random.default_rng(0)
    moved = {}
    sections = []
    for number, angle in enumerate(ANGLES, 1):
        moved[angle] = (0.0, 0.0) if angle == 0 else tuple(rng.uniform(-4, 4, 2))
        clean = tilt_image(angle, moved[angle])
        frames = rng.normal(clean, 5, (2, *clean.shape)).astype(np.float32)
        name = f"Position_1_{number:03d}_{angle:.2f}_20230614_103000_fractions"
        with mrcfile.new(folder / f"{name}.mrc") as file:
            file.set_data(frames)
        sections.append(f"[ZValue = {number - 1}]\nTiltAngle = {angle}\n")
    (folder / "Position_1.mdoc").write_text("\n".join(sections))
    shifts = {f"{angle:.2f}": shift for angle, shift in moved.items()}
    write_sample(folder / "sample.map")
    truth = {
        "tilt_shifts_px": {"Position_1": shifts},
        "samples": {"Position_1": "sample.map"},
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    return moved


def test_a_tilt_series_becomes_a_tomogram_with_pictures(
    instance: dg.DagsterInstance,
    tilts: dict[float, tuple[float, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = tick(instance)
    assert isinstance(found, dg.SensorResult)
    assert {r.job_name for r in found.run_requests or []} == {"process_movies"}
    with open_sessions(load_settings()) as sessions:
        for request in found.run_requests or []:
            assert request.partition_key
            sessions.correct(request.partition_key)
        assert request.partition_key
        sessions.fit_ctf(request.partition_key)  # of the last one: it gets its records
    series = tick(instance, found.cursor)
    assert isinstance(series, dg.SensorResult)
    [request] = series.run_requests or []
    key = "grid2~Position_1"
    assert (request.job_name, request.partition_key) == ("process_tilt_series", key)

    instance.add_dynamic_partitions("tilt_series", [key, "another~one"])
    result = run(instance, request)
    assert result.success
    checks = {c.check_name: c.passed for c in result.get_asset_check_evaluations()}
    assert checks["tilts_are_complete"]
    assert checks["no_tilt_is_blank"]
    assert checks["shifts_match_truth"]
    assert checks["tomogram_matches_truth"]
    with open_sessions(load_settings()) as sessions:
        aligned = tomography.align(sessions, key).result
        tomogram = tomography.reconstruct(sessions, key)
        less_noisy = tomography.denoise(sessions, key)
        pictures = tomography.draw(sessions, key)
    along = {t.angle_deg: t.dy_px for t in aligned.tilts}
    assert len(along) == len(ANGLES)
    # Along the axis nothing but the shift moves an image; one shift of all is free.
    error = np.array([along[a] for a in sorted(along)])
    error -= np.array([tilts[a][1] for a in sorted(tilts)])
    assert np.abs(error - error.mean()).max() < 1
    assert tomogram.result.size_z == 32
    with mrcfile.open(tomogram.folder / tomogram.result.tomogram) as file:
        volume = np.array(file.data)
    check_halves(key, volume, monkeypatch)
    with mrcfile.open(less_noisy.folder / less_noisy.result.denoised) as file:
        assert file.data.shape == volume.shape
        # What differs from voxel to voxel is noise; the blobs are wider.
        assert np.diff(file.data).std() < 0.8 * np.diff(volume).std()
    assert {path.is_file() for path in pictures.values()} == {True}
    assert len(pictures) == 6
    shown = instance.get_latest_materialization_event(dg.AssetKey("denoised"))
    assert shown is not None
    assert "data:image/webp" in str(shown.asset_materialization)
    check_records(tmp_path)


def check_halves(key: str, whole: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tomograms of halves are there, and go to the network where it is asked for."""
    with open_sessions(load_settings()) as sessions:
        tomogram = tomography.reconstruct(sessions, key)
        own = sessions.folder / "grid2/session.yaml"
        own.write_text(own.read_text().replace("reconstruct: {halves: true}", N2N))
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(ToolMissing, match="the extra torch"):
            tomography.denoise(sessions, key)
        assert tomography.reconstruct(sessions, key) == tomogram
    halves = [tomogram.result.even, tomogram.result.odd]
    even, odd = (mrcfile.read(tomogram.folder / half) for half in halves)
    # The sums are of every other frame, and back-projection is linear.
    assert np.abs(even + odd - whole).max() < 1e-3 * whole.std()
    assert 0 < np.corrcoef(even.ravel(), odd.ravel())[0, 1] < 1


def check_records(folder: Path) -> None:
    """Rows and project are there, and those of live services say the same."""
    assert counts("Tomogram", "Movie", "TiltImageAlignment", "ProcessedTomogram") == [
        *(1, 1, 1, 3)
    ]
    project = load_settings().home / "cryoem_results/grid2" / PROJECT
    listed = starfile.read(
        project / "Tomograms/job006/tomograms.star", always_dict=True
    )["global"]
    assert (project / listed.rlnTomoReconstructedTomogram[0]).is_file()
    # A tilt whose CTF comes later is put to the others.
    place = place_of(load_settings())
    with open_sessions(load_settings()) as sessions:
        late = sessions.ledger.movies("grid2")[0].key
        sessions.fit_ctf(late)
        recorded = record_movie(sessions, late, place)
        assert recorded.rows["insert_tilt_image_alignment"] == 2
        again = record_movie(sessions, late, place)
        assert "insert_tilt_image_alignment" not in again.rows
    place.close()
    assert counts("Tomogram", "Movie", "TiltImageAlignment") == [1, 2, 2]
    star = project / "AlignTiltSeries/job005/tilt_series/Position_1.star"
    assert len(starfile.read(star)) == 2
    ours = paths_of_tomogram(place_of(load_settings()), project)
    assert ours == paths_of_tomogram(live(folder), folder / "live")


FILES = (
    *("volumeFile", "stackFile", "fileDirectory", "centralSliceImage"),
    *("tomogramMovie", "xyShiftPlot", "projXY", "projXZ", "tiltAngleOffset"),
)


def paths_of_tomogram(place: ServiceContext, project: Path) -> dict[str, list[str]]:
    """What the rows of the one tomogram say, but for where the project lies."""
    found = {}
    for name, columns in (
        ("Tomogram", FILES),
        ("ProcessedTomogram", ("filePath", "processingType")),
    ):
        table = METADATA.tables[name]
        asked = select(*(table.c[column] for column in columns)).order_by(columns[-1])
        with place.ispyb.engine.connect() as connection:
            rows = connection.execute(asked).all()
        found[name] = [str(row).replace(str(project), "P") for row in rows]
    place.close()
    return found


def live(folder: Path) -> ServiceContext:
    """The same series by live services, which compute, in a project of their own."""
    with open_sessions(load_settings()) as sessions:
        stack = tomography.assemble(sessions, "grid2~Position_1").result
    pairs = [list(pair) for pair in zip(stack.images, stack.tilts_deg, strict=True)]
    place = ServiceContext(ispyb_url=f"sqlite:///{folder / 'live.sqlite'}")
    given = {
        "stack_file": f"{folder}/live/Tomograms/job006/tomograms/{stack.stack}",
        "input_file_list": str(pairs),
        **{"pixel_size": "5", "tilt_axis": "0", "kv": "300"},
    }
    recipe = "em-tomo-align"
    wanted = placeholders_of(read_recipe(recipe))
    parameters = completed(given, recipe=recipe, wanted=wanted, place=place)
    _, content = requested({"recipes": [recipe], "parameters": parameters})
    assert [r.error for r in run_recipe(content, place, guid="g") if r.error] == []
    return place
