"""What is made of a session's movies: each step by its stage, in a folder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from em_platform.config import Settings
from em_platform.config.cryoem import CryoemSettings, SessionSettings
from em_platform.config.reading import parse_yaml, read_regular
from em_platform.cryoem.exposure import dose_before
from em_platform.cryoem.headers import Header, read_header
from em_platform.cryoem.message_rules import refuse_programs
from em_platform.cryoem.movies import open_movie
from em_platform.cryoem.optics import stages_of
from em_platform.cryoem.series_mdoc import read_series_mdoc
from em_platform.cryoem.sessions.ledger import (
    Progress,
    SessionLedger,
    SessionMovie,
    key_folder,
)
from em_platform.cryoem.sessions.names import safe
from em_platform.cryoem.sessions.run_stage import result_of, run_stage
from em_platform.cryoem.sessions.truth import SessionTruth, read_truth
from em_platform.cryoem.stage import RESULT, RawParameters
from em_platform.errors import ConfigError, DataError, FormatError
from em_platform.formats import read_mdoc_tilts, read_text
from em_platform.model.base import first_problem

OWN_SETTINGS = "session.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutput:
    """What a step found, and the folder of its files."""

    result: Any
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieFacts:
    """What a movie's own header and name say."""

    movie: SessionMovie
    frames: int
    height_px: int
    width_px: int
    header: Header


@contextmanager
def open_sessions(settings: Settings) -> Iterator["Sessions"]:
    """The sessions that the settings name."""
    cryoem = settings.cryoem
    folder, results = settings.sessions_folder, settings.session_results_folder
    database = settings.home.absolute() / "cryoem_sessions.sqlite"
    with SessionLedger(folder, database) as ledger:
        yield Sessions(folder=folder, results=results, settings=cryoem, ledger=ledger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """All sessions, and what is made of them; the same call again costs nothing."""

    folder: Path
    results: Path
    settings: CryoemSettings
    ledger: SessionLedger

    def look(
        self,
        now: float,
        *,
        followed: int = 0,
        is_busy: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Note what has arrived; see `SessionLedger.look`."""
        self.ledger.look(
            now,
            settle_s=self.settings.settle_s,
            quiet_s=self.settings.quiet_s,
            progress=Progress(
                is_corrected=lambda movie: self.micrograph(movie.key) is not None,
                # Without reading it: there may be thousands.
                has_particles=lambda movie: (
                    self.step_folder(movie.key, "particles") / RESULT
                ).is_file(),
                is_busy=is_busy,
            ),
            picks_particles=lambda session: (
                self.settings_of(session).particle_diameter_a is not None
            ),
            followed=followed,
        )

    def settings_of(self, session: str) -> SessionSettings:
        """How a session is processed: its own `session.yaml` on the settings.

        Raises
        ------
        ConfigError
            The file is wrong.
        """
        path = self.folder / session / OWN_SETTINGS
        if not path.is_file():
            return self.settings.session
        try:
            own = parse_yaml(read_regular(path).decode()) or {}
            common = self.settings.session.model_dump()
            merged = {**common, **own}
            if own.get("stages"):
                refuse_programs(own["stages"])
                merged["stages"] = common["stages"] | {
                    stage: {**common["stages"].get(stage, {}), **given}
                    for stage, given in own["stages"].items()
                }
            return SessionSettings.model_validate(merged)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            why = str(error).splitlines()[0]
            if isinstance(error, ValidationError):
                why = first_problem(error, SessionSettings)
            raise ConfigError(
                f"{path}: {why}; the settings of cryoem.session were expected, correct "
                "the file"
            ) from error

    def truth(self, session: str) -> SessionTruth | None:
        """The truth of a simulated session; None of a real one."""
        return read_truth(self.folder / session)

    def step_folder(self, key: str, step: str) -> Path:
        """Where a step of a movie, tilt series or session has its files."""
        return self.results / key_folder(key) / step

    def facts(self, key: str) -> MovieFacts:
        """A movie as it arrived."""
        movie = self.ledger.movie(key)
        frames, height, width = open_movie(movie.path).shape
        return MovieFacts(
            movie=movie,
            frames=frames,
            height_px=height,
            width_px=width,
            header=read_header(movie.path),
        )

    def axis_deg(self, session: str, series: str) -> float | None:
        """The tilt axis, by the settings or the mdoc of the series."""
        own = self.settings_of(session).tilt_axis_deg
        mdoc = self.ledger.mdoc(session, series)
        if own is not None or mdoc is None:
            return own
        return read_mdoc_tilts(read_text(str(mdoc)), str(mdoc)).axis_deg

    def correct(self, key: str) -> StageOutput:
        """The sum of a movie's frames, each moved back to where the first was."""
        movie = self.ledger.movie(key)
        own = self.settings_of(movie.session)
        given = {
            "movie": movie.path,
            "pixel_size": own.pixel_size_a,
            "voltage": own.voltage_kv,
            "dose_per_frame": own.dose_per_frame,
            "init_dose": self._dose_before(movie, own),
            "gain_ref": own.gain or None,
        }
        folder = self.step_folder(key, "motion")
        return run("motion", given, folder, own, header_of=movie.path)

    def _dose_before(self, movie: SessionMovie, own: SessionSettings) -> float | None:
        if movie.series is None:
            return None  # a single particle's
        path = self.ledger.mdoc(movie.session, movie.series)
        mdoc = None if path is None else read_series_mdoc(path)
        dose = own.dose_per_frame
        return dose_before(movie.path, dose_per_frame=dose, mdoc=mdoc)

    def micrograph(self, key: str) -> StageOutput | None:
        """What `correct` made before; None where it did not run yet."""
        folder = self.step_folder(key, "motion")
        found = result_of("motion", folder)
        return None if found is None else StageOutput(result=found, folder=folder)

    def fit_ctf(self, key: str) -> StageOutput:
        """The CTF of a micrograph."""
        made, own, movie = self._needed(key), self._own(key), self.ledger.movie(key)
        tilt = {}
        if movie.series is not None:
            tilt["tilt_deg"] = movie.angle_deg
            # Of a series whose mdoc is broken, who puts it together says so.
            with suppress(FormatError):
                tilt["axis_deg"] = self.axis_deg(movie.session, movie.series)
        # Not all programs write the sum without weights.
        image = made.folder / (made.result.plain or made.result.micrograph)
        given = {
            "input_image": image,
            # Files are named by the micrograph, as those of live services.
            "output_image": made.folder / made.result.micrograph,
            "pixel_size": made.result.pixel_size_a,
            "voltage": self._voltage_kv(key),
            **tilt,
        }
        folder = self.step_folder(key, "ctf")
        return run("ctf", given, folder, own)

    def pick(self, key: str) -> StageOutput:
        """The particles of a micrograph."""
        made, own = self._needed(key), self._own(key)
        given = {
            "micrograph": made.folder / made.result.micrograph,
            "pixel_size": made.result.pixel_size_a,
            "particle_diameter": self._diameter_a(key),
        }
        folder = self.step_folder(key, "picks")
        return run("pick", given, folder, own)

    def extract(self, key: str) -> StageOutput:
        """The picked particles of a micrograph, as boxes with their CTF."""
        made, picks, own = (
            self._needed(key),
            self.step_folder(key, "picks"),
            self._own(key),
        )
        found = self._found("pick", picks, "particle_picks", key)
        fit = self._found("ctf", self.step_folder(key, "ctf"), "ctf_fits", key)
        given = {
            "micrographs_file": made.folder / made.result.micrograph,
            "coord_list_file": picks / found.coordinates,
            "pixel_size": made.result.pixel_size_a,
            "voltage": self._voltage_kv(key),
            "defocus_u": fit.defocus_u_a,
            "defocus_v": fit.defocus_v_a,
            "defocus_angle": fit.astigmatism_deg,
            "phase_shift": fit.phase_shift_deg,
            "ctf_max_resolution": fit.fit_resolution_a,
            "ctf_figure_of_merit": fit.score,
            "particle_diameter": self._diameter_a(key),
            "downscale": True,
        }
        folder = self.step_folder(key, "particles")
        return run("extract", given, folder, own)

    def classify(self, key: str) -> StageOutput:
        """All particles of a session, sorted into classes."""
        session = self.ledger.session(key)
        own = self.settings_of(session)
        stars = []
        for movie in self.ledger.movies(session):
            folder = self.step_folder(movie.key, "particles")
            found: Any = result_of("extract", folder)
            if found is not None and found.particles:
                stars.append(folder / found.star)
        if not stars:
            raise DataError(
                f"session {session}: found no particles, those of its micrographs "
                "were expected; run the job process_particles for its movies"
            )
        given = {
            "particles_file": tuple(stars),
            "class2d_nr_classes": own.classes,
            "particle_diameter": own.particle_diameter_a,
        }
        folder = self.results / safe(session) / "classes"
        return run("classify", given, folder, own)

    def _own(self, key: str) -> SessionSettings:
        return self.settings_of(self.ledger.movie(key).session)

    def _diameter_a(self, key: str) -> float:
        diameter = self._own(key).particle_diameter_a
        if diameter is None:
            raise ConfigError(
                f"movie {key}: found no diameter of the particles, one in Å was "
                "expected; set cryoem.session.particle_diameter_a"
            )
        return diameter

    def _voltage_kv(self, key: str) -> float | None:
        movie = self.ledger.movie(key)
        return (
            self.settings_of(movie.session).voltage_kv
            or read_header(movie.path).voltage_kv
        )

    def _needed(self, key: str) -> StageOutput:
        made = self.micrograph(key)
        if made is None:
            raise missing(key, "micrographs")
        return made

    @staticmethod
    def _found(stage: str, folder: Path, asset: str, key: str) -> Any:
        found = result_of(stage, folder)
        if found is None:
            raise missing(key, asset)
        return found


def run(
    stage: str,
    given: RawParameters,
    folder: Path,
    own: SessionSettings,
    *,
    header_of: Path | None = None,
) -> StageOutput:
    """What a stage finds with these parameters and those that the session sets."""
    found = run_stage(stage, given, folder, stages=stages_of(own), header_of=header_of)
    return StageOutput(result=found, folder=folder)


def missing(key: str, asset: str) -> DataError:
    """The error where an asset was not made yet that a step needs."""
    return DataError(
        f"{key}: found nothing of the asset {asset}, its result was expected; "
        f"materialize {asset} first"
    )
