"""What was made of a session's movies and tilt series, as rows and jobs of a project.

The recipes of live services run on the results that are there, so that their services
write the rows of ISPyB, the pictures and the project: live and here they are the same.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from em_platform.cryoem.optics import optics_of
from em_platform.cryoem.project.tables import rows_of
from em_platform.cryoem.recipes import placeholders_of, read_recipe
from em_platform.cryoem.recipes.read import Fillings, RecipeContent
from em_platform.cryoem.services.local import StepRun, completed, run_recipe
from em_platform.cryoem.services.process_recipe import requested
from em_platform.cryoem.services.step import ServiceContext
from em_platform.cryoem.sessions.ledger import SessionMovie, key_of
from em_platform.cryoem.sessions.names import safe
from em_platform.cryoem.sessions.processing import Sessions, missing
from em_platform.cryoem.sessions.run_stage import parameters_of, result_of
from em_platform.cryoem.stage import StageResult
from em_platform.cryoem.tilt_name import tilt_name
from em_platform.model import JsonObject

PROJECT = "relion_project"
_STACKS = "Tomograms/job006/tomograms"
_BATCH = "Select/job006/particles_split1.star"
# A session's particles are sorted together, however many there are.
_ONE_BATCH = {"batch_size": 2**31 - 1}
_ALIGNED = "AlignTiltSeries/job005/tilt_series"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What was written; the same again writes the same."""

    project: Path
    rows: Mapping[str, int]
    """Command of ISPyB -> how often it ran."""
    reports: int
    """To the project, each of one file of a job."""
    feedback: tuple[Any, ...] = ()
    """What live services would have sent to Murfey."""

    def __add__(self, other: "Recorded") -> "Recorded":
        return Recorded(
            project=self.project,
            rows=Counter(self.rows) + Counter(other.rows),
            reports=self.reports + other.reports,
            feedback=self.feedback + other.feedback,
        )


def project_of(sessions: Sessions, session: str) -> Path:
    """The folder that RELION and doppio open for a session."""
    return sessions.results / safe(session) / PROJECT


def record_movie(sessions: Sessions, key: str, place: ServiceContext) -> Recorded:
    """Write what is known of a movie: motion, CTF, and picks and particles if any.

    A tilt whose series has a tomogram already gets its part in that, too.

    Raises
    ------
    DataError
        It was not corrected yet, or has no CTF.
    PlatformError
        The database or the project cannot be written.
    """
    movie = sessions.ledger.movie(key)
    recorded = _record_movie(sessions, movie, place)
    if movie.series and _is_missing_in_tomogram(sessions, movie, movie.series):
        series = key_of(movie.session, movie.series)
        recorded += record_tilt_series(sessions, series, place)
    return recorded


def _is_missing_in_tomogram(
    sessions: Sessions, movie: SessionMovie, series: str
) -> bool:
    """Whether a tilt was aligned, but had no CTF yet when that was recorded."""
    key = key_of(movie.session, series)
    stack: Any = result_of("assemble", sessions.step_folder(key, "stack"))
    aligned: Any = result_of("tilt-align", sessions.step_folder(key, "alignment"))
    tomogram = result_of("reconstruct", sessions.step_folder(key, "tomogram"))
    made = sessions.micrograph(movie.key)
    if stack is None or aligned is None or tomogram is None or made is None:
        return False
    own = str(made.folder / made.result.micrograph)
    if own not in {stack.images[tilt.section] for tilt in aligned.tilts}:
        return False
    project = project_of(sessions, movie.session)
    table = project / _ALIGNED / f"{series}.star"
    name = _micrograph(sessions, movie, made.result).relative_to(project)
    return str(name) not in {row["MicrographName"] for row in rows_of(table, series)}


def _record_movie(
    sessions: Sessions, movie: SessionMovie, place: ServiceContext
) -> Recorded:
    key = movie.key
    project = project_of(sessions, movie.session)
    made = {
        "motion": _needed(sessions, key, "motion", "motion", "micrographs"),
        "ctf": _needed(sessions, key, "ctf", "ctf", "ctf_fits"),
    }
    for stage, step in (("pick", "picks"), ("extract", "particles")):
        folder = sessions.step_folder(key, step)
        if (found := result_of(stage, folder)) is not None:
            made[stage] = found, folder
    result: Any = made["motion"][0]
    own = sessions.settings_of(movie.session)
    used = parameters_of(made["motion"][1])
    given = {
        "movie": movie.path,
        "mrc_out": _micrograph(sessions, movie, result),
        "pixel_size": result.pixel_size_a,
        "fm_dose": used.get("dose_per_frame"),
        "kv": used.get("voltage"),
        "gain_ref": used.get("gain_ref"),
        "frame_count": result.frames,
        "particle_diameter": own.particle_diameter_a,
        "dcid": own.ispyb_dcid,
        "autoproc_program_id": own.ispyb_program_id,
    }
    recipe = "em-tomo-preprocess" if movie.series else "em-spa-preprocess"
    # As the fit had them, whatever the settings are by now.
    known = optics_of(parameters_of(made["ctf"][1])).optics
    if movie.series and tilt_name(movie.path) is None:
        known |= {"tilt_series": movie.series, "tilt_angle": movie.angle_deg}
    recorded = _recorded(place, recipe, given, made=made, project=project, known=known)
    picked = [each for each in recorded.feedback if "extraction_parameters" in each]
    if picked and "extract" in made:
        # As Murfey does: it asks for the particles of what was picked.
        more = given | picked[0]["extraction_parameters"] | _ONE_BATCH
        recipe = "em-spa-extract"
        recorded += _recorded(
            place, recipe, more, made=made, project=project, known=known
        )
    return recorded


def record_classes(sessions: Sessions, key: str, place: ServiceContext) -> Recorded:
    """Write the classes of a session's particles.

    Raises
    ------
    DataError
        It has no classes yet, or none of its particles is in the project.
    PlatformError
        The database or the project cannot be written.
    """
    session = sessions.ledger.session(key)
    project, folder = (
        project_of(sessions, session),
        sessions.step_folder(key, "classes"),
    )
    result = result_of("classify", folder)
    if result is None:
        raise missing(key, "classes")
    particles = project / _BATCH
    if not particles.is_file():
        raise missing(key, "relion_project")
    own, used = sessions.settings_of(session), parameters_of(folder)
    given = {
        "particles_file": particles,
        "class2d_dir": project / "Class2D/job007",
        "nr_classes": used.get("class2d_nr_classes"),
        "nr_iter": used.get("class2d_nr_iter"),
        "particle_diameter": own.particle_diameter_a,
        "dcid": own.ispyb_dcid,
        "autoproc_program_id": own.ispyb_program_id,
    }
    made = {"classify": (result, folder)}
    return _recorded(place, "em-spa-class2d", given, made=made, project=project)


def record_tilt_series(sessions: Sessions, key: str, place: ServiceContext) -> Recorded:
    """Write what is known of a tilt series: alignment, tomogram, denoised tomogram.

    Of tilts without a CTF there are no rows and jobs yet.

    Raises
    ------
    DataError
        It has no tomogram yet.
    PlatformError
        The database or the project cannot be written.
    """
    session, series = sessions.ledger.tilt_series(key)
    project = project_of(sessions, session)
    stack: Any = _needed(sessions, key, "assemble", "stack", "tilt_series")[0]
    made = {
        "tilt-align": _needed(sessions, key, "tilt-align", "alignment", "alignments"),
        "reconstruct": _needed(sessions, key, "reconstruct", "tomogram", "tomograms"),
    }
    denoised = sessions.step_folder(key, "denoised")
    if (found := result_of("denoise", denoised)) is not None:
        made["denoise"] = found, denoised
    fits, known = {}, {"tilt_series": series}
    for movie in sessions.ledger.movies(session, series):
        corrected = sessions.micrograph(movie.key)
        fitted = result_of("ctf", sessions.step_folder(movie.key, "ctf"))
        if corrected is None or fitted is None:
            continue
        image = _micrograph(sessions, movie, corrected.result)
        if not image.exists():
            # Its own run comes later, or was before there were records.
            _record_movie(sessions, movie, place)
        fits[str(corrected.folder / corrected.result.micrograph)] = str(image)
        known |= optics_of(parameters_of(sessions.step_folder(movie.key, "ctf"))).optics
    images = [fits.get(each, each) for each in stack.images]
    aligned: Any = made["tilt-align"][0]
    own = sessions.settings_of(session)
    given = {
        "stack_file": project / _STACKS / stack.stack,
        "input_file_list": [list(p) for p in zip(images, stack.tilts_deg, strict=True)],
        "pixel_size": stack.pixel_size_a,
        "kv": own.voltage_kv,
        "dose_per_frame": own.dose_per_frame,
        "tilt_axis": aligned.rotation_deg,
        "dcid": own.ispyb_dcid,
        "appid": own.ispyb_program_id,
    }
    recipe = "em-tomo-align"
    return _recorded(place, recipe, given, made=made, project=project, known=known)


def _micrograph(sessions: Sessions, movie: SessionMovie, result: Any) -> Path:
    """Where a movie's sum stands in the project: as the movie does in its session."""
    within = movie.path.relative_to(sessions.folder / movie.session).parent
    project = project_of(sessions, movie.session)
    return project / "MotionCorr/job002/Movies" / within / str(result.micrograph)


def _needed(
    sessions: Sessions, key: str, stage: str, step: str, asset: str
) -> tuple[StageResult, Path]:
    folder = sessions.step_folder(key, step)
    result = result_of(stage, folder)
    if result is None:
        raise missing(key, asset)
    return result, folder


def _recorded(
    place: ServiceContext,
    recipe: str,
    given: Fillings,
    *,
    made: Mapping[str, tuple[StageResult, Path]],
    project: Path,
    known: JsonObject = MappingProxyType({}),
) -> Recorded:
    """`known` is what steps hand on, as names of files and recipes do not say it."""
    place.made = made
    stated = {name: str(value) for name, value in given.items() if value is not None}
    wanted = placeholders_of(read_recipe(recipe))
    parameters = completed(stated, recipe=recipe, wanted=wanted, place=place)
    filled = {**parameters, "guid": project.name}
    _, content = requested({"recipes": [recipe], "parameters": filled})
    for step in content.values():
        own = step.get("parameters", {}) if isinstance(step, dict) else {}
        if "relion_options" in own:
            own["relion_options"] = {**own["relion_options"], **known}
    rows: Counter[str] = Counter()
    reports = 0
    feedback = []
    optional = {"CrYOLO": "pick", "Denoise": "denoise"}
    for ran in run_recipe(content, place, guid=project.name):
        if ran.error is not None and (
            ran.service not in optional or optional[ran.service] in made
        ):
            raise ran.error
        reports += ran.service == "NodeCreator"
        if ran.service == "EMISPyB":
            rows.update(_commands(ran, content))
        if ran.is_outside:
            feedback.append(ran.payload)
    return Recorded(
        project=project, rows=dict(rows), reports=reports, feedback=tuple(feedback)
    )


def _commands(ran: StepRun, recipe: RecipeContent) -> list[str]:
    """The commands that one message of ISPyB stood for."""
    payload = ran.payload if isinstance(ran.payload, dict) else {}
    message = {**recipe[ran.step].get("parameters", {}), **payload}
    if parts := message.get("ispyb_command_list"):
        return [str(part["ispyb_command"]) for part in parts]
    return [str(message.get("buffer_command", message)["ispyb_command"])]
