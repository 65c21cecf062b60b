"""What Dagster has made of a session is recorded as live services record it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
from sqlalchemy import select

from em_platform.config import load_settings
from em_platform.cryoem.ispyb import register_collection, tables
from em_platform.cryoem.project.pipeline import PIPELINE
from em_platform.cryoem.recipes import placeholders_of, read_recipe
from em_platform.cryoem.services.local import completed, place_of, run_recipe
from em_platform.cryoem.services.process_recipe import requested
from em_platform.cryoem.services.step import ServiceContext
from em_platform.cryoem.sessions.processing import Sessions, open_sessions
from em_platform.cryoem.sessions.records import project_of, record_movie
from em_platform.errors import DataError

# The second tilt by its own name, by the mdoc of its series alone, and counted from 0;
# the first of SerialEM's counter. Before each there are so many e/Å².
STEMS = {
    "TS_1_002_3.0_20260101_120000_fractions": 1.5,
    "017_02": 1.5,
    "TS_1_001_3.0": 1.5,
    "TS_1_10230_3.0": 0.0,
}
MDOC = "".join(
    f"[ZValue = {i}]\nTiltAngle = {3 * i}\nSubFramePath = D:\\x\\017_0{i + 1}.tif\n"
    for i in range(3)
)
RECIPE = "em-tomo-preprocess"
# The asset fits the sum without weights by dose, the live service the weighted one.
FITTED = {
    *("astigmatism", "astigmatismAngle", "estimatedResolution", "estimatedDefocus"),
    *("ccValue", "iceRingDensity"),
}
TIMES = {"createdTimeStamp", "recordTimeStamp"}


@pytest.fixture(params=STEMS)
def stem(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sessions(
    home: Path, monkeypatch: pytest.MonkeyPatch, stem: str
) -> Iterator[Sessions]:
    """A session with one tilt that arrived long ago; of an uncommon microscope."""
    folder = home / "cryoem/grid1/raw"
    folder.mkdir(parents=True)
    own = "pixel_size_a: 4\nvoltage_kv: 200\ndose_per_frame: 0.5\n"
    own += "cs_mm: 1.4\namplitude_contrast: 0\n"
    (folder.parent / "session.yaml").write_text(own)
    monkeypatch.setenv("EM_CRYOEM__SETTLE_S", "0")
    rng = np.random.default_rng(5)
    specimen = rng.normal(40, 6, (264, 264)).clip(1)
    frames = [rng.poisson(specimen[4:260, 4 + i : 260 + i]) for i in range(3)]
    if stem == "TS_1_001_3.0":
        (folder / "TS_1_000_0.0.mrc").touch()  # it is being copied
    if stem == "017_02":
        (folder / "TS_1.mrc.mdoc").write_text(MDOC)
    with mrcfile.new(folder / f"{stem}.mrc", data=np.array(frames, np.int16)) as file:
        file.voxel_size = 4
    with open_sessions(load_settings()) as found:
        found.look(1e12)
        yield found


def live(sessions: Sessions, place: ServiceContext, project: Path, stem: str) -> None:
    """The recipe of the movie, by services that compute.

    The lens stands where a site's recipe has it: at the step that fits.
    """
    given = {
        "movie": str(sessions.ledger.movie(f"grid1~{stem}").path),
        "mrc_out": f"{project}/MotionCorr/job002/Movies/raw/{stem}.mrc",
        **{"pixel_size": "4", "fm_dose": "0.5", "kv": "200", "frame_count": "3"},
    }
    wanted = placeholders_of(read_recipe(RECIPE))
    parameters = completed(given, recipe=RECIPE, wanted=wanted, place=place)
    _, content = requested({"recipes": [RECIPE], "parameters": parameters})
    content[3]["parameters"] = {"spher_aber": 1.4, "ampl_contrast": 0}
    assert [r.error for r in run_recipe(content, place, guid="g") if r.error] == []


def rows(place: ServiceContext, project: Path) -> dict[str, list[dict[str, Any]]]:
    """What the tables of a movie hold, but for where the project lies."""
    found = {}
    with place.ispyb.engine.connect() as connection:
        for table in (tables.MOVIE, tables.MOTION_CORRECTION, tables.CTF):
            there = connection.execute(select(table)).mappings()
            found[table.name] = [
                {
                    name: str(value).replace(str(project), "P")
                    for name, value in row.items()
                    if name not in FITTED | TIMES
                }
                for row in there
            ]
    return found


def names(project: Path) -> set[str]:
    """The files of a project, without the notes of services that computed."""
    return {
        str(path.relative_to(project))
        for path in project.rglob("*")
        if path.is_file() and path.name[0] != "."
    }


def contents(project: Path) -> dict[str, bytes]:
    """The bytes of its files, without each job's copy of the pipeline as it was."""
    return {
        name: (project / name).read_bytes()
        for name in names(project)
        if not name.endswith(f"/{PIPELINE}")
    }


def test_assets_and_live_services_give_the_same_rows_and_files(
    sessions: Sessions, tmp_path: Path, stem: str
) -> None:
    key = f"grid1~{stem}"
    """round3 1.1.2, 1.1.3: of the microscope and the dose before a tilt, too."""
    # Before the second tilt there was one of three frames.
    assert sessions.correct(key).result.init_dose == STEMS[stem]
    place = place_of(load_settings())
    with pytest.raises(DataError, match="materialize ctf_fits first"):
        record_movie(sessions, key, place)
    sessions.fit_ctf(key)
    # A site's ISPyB has the collection already; the session says which it is.
    with place.ispyb.write() as writer:
        site = register_collection(
            writer, image_directory="/site", image_prefix="p", recipe="r"
        )
    with (sessions.folder / "grid1/session.yaml").open("a") as own:
        own.write(f"ispyb_dcid: {site.dcid}\nispyb_program_id: {site.program_id}\n")
    made = record_movie(sessions, key, place)
    project = project_of(sessions, "grid1")
    assert made.project == project
    assert made.reports == 3
    assert made.rows == {
        **{"insert_movie": 1, "insert_motion_correction": 1, "insert_ctf": 1}
    }
    other, theirs = (
        tmp_path / "live",
        ServiceContext(ispyb_url=f"sqlite:///{tmp_path / 'l.db'}"),
    )
    live(sessions, theirs, other, stem)
    assert rows(place, project) == rows(theirs, other)
    assert [len(each) for each in rows(place, project).values()] == [1, 1, 1]
    assert names(project) == names(other)
    for star in (
        *("MotionCorr/job002/tilt_series/TS_1.star", PIPELINE),
        *("Import/job001/tilt_series.star", "CtfFind/job003/tilt_series_ctf.star"),
    ):
        ours, live_ones = (starfile.read(each / star) for each in (project, other))
        assert str(ours) == str(live_ones)
    tilts = starfile.read(other / "CtfFind/job003/tilt_series/TS_1.star")
    assert list(tilts.rlnMicrographPreExposure) == [STEMS[stem]]
    listed = starfile.read(project / "CtfFind/job003/tilt_series_ctf.star")
    assert list(listed.rlnSphericalAberration) == [1.4]
    assert list(listed.rlnAmplitudeContrast) == [0]
    assert list(listed.rlnVoltage) == [200]

    with place.ispyb.engine.connect() as connection:
        asked = select(tables.DATA_COLLECTION.c.imageDirectory)
        assert connection.execute(asked).scalars().all() == ["/site"]
    # A second time: the same rows, the same bytes.
    before = contents(project)
    recorded = rows(place, project)
    record_movie(sessions, key, place)
    assert rows(place, project) == recorded
    assert before == contents(project)
    place.close()
    theirs.close()
