"""The demo of cryo-EM: two simulated sessions, and what Dagster makes of them."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

from em_platform.cli.console_output import ConsoleOutput, short
from em_platform.cli.demo_sessions import (
    demo_plan,
    particle_plan,
    write_particle_session,
    write_tilt_session,
)
from em_platform.cli.platform import Platform
from em_platform.cli.runs import (
    PATIENCE_S,
    PartitionRuns,
    complaints,
    cryoem_runs,
    progress,
)

_TICK_S = 2.0  # each look asks the web UI for the events of all runs
_OF_MOVIES = ("motion_matches_truth", "defocus_matches_truth")
_OF_PARTICLES = ("picks_match_truth",)
_OF_CLASSES = ("classes_match_truth", "averages_match_truth")
_OF_SERIES = ("shifts_match_truth", "tomogram_matches_truth")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """A session, and what is to become of it."""

    folder: Path
    of_movies: tuple[str, ...]
    """Checks of each movie."""
    last_step: str
    """Of the job of a movie."""
    result: str
    """The partition that all movies together become."""
    of_result: tuple[str, ...]
    last_step_of_result: str

    @property
    def movies(self) -> list[str]:
        """The partitions of its movies."""
        truth = json.loads((self.folder / "truth.json").read_bytes())
        return [f"{self.folder.name}~{stem}" for stem in sorted(truth["movies"])]

    @property
    def last_steps(self) -> dict[str, str]:
        """By partition, the result last."""
        of_movies = dict.fromkeys(self.movies, self.last_step)
        return {**of_movies, self.result: self.last_step_of_result}


def process_both(
    platform: Platform, output: ConsoleOutput, *, movies: int, tilts: int
) -> bool:
    """Have both sessions processed; whether all agrees with their truth.

    They are put where sessions arrive, and the sensor finds them. What a former call
    has made is kept.
    """
    from em_platform.cryoem.sessions.records import PROJECT

    folder = Path(platform.settings.cryoem.sessions)
    home = platform.settings.home.absolute()
    sessions = []
    if movies:
        sessions.append(_particles(folder / "particles", movies=movies))
    if tilts:
        sessions.append(_tilts(folder / "tilts", home, tilts=tilts))
    for each in sessions:
        output.line(f"session {short(each.folder)}: {len(each.movies)} movies")
    runs = _followed(platform, sessions, output)
    good = all(each.is_good for each in runs.values())
    for session in sessions:
        of_movies = [runs[key] for key in session.movies]
        for name in session.of_movies:
            good &= _show(name, of_movies, output)
        for name in session.of_result:
            good &= _show(name, [runs[session.result]], output)
    for key, found in runs.items():
        for line in complaints(found):
            output.line(f"{key}: {line}")
    for session in sessions:
        results = Path(platform.settings.cryoem.results) / session.folder.name
        output.line(f"results: {short(results)}; RELION opens {PROJECT} in it")
    output.line(f"pictures, checks and files: group cryoem at {platform.url}")
    return good


def _particles(folder: Path, *, movies: int) -> _Session:
    if not folder.is_dir():
        write_particle_session(folder, particle_plan(), movies=movies)
    return _Session(
        folder=folder,
        of_movies=(*_OF_MOVIES, *_OF_PARTICLES),
        last_step="record_movie",
        result=folder.name,
        of_result=_OF_CLASSES,
        last_step_of_result="record_classes",
    )


def _tilts(folder: Path, home: Path, *, tilts: int) -> _Session:
    plans = home / "cryoem_simulation"
    plan = demo_plan(plans / "plan", tilts=tilts)
    if not folder.is_dir():
        write_tilt_session(folder, plan, simulations=plans / "stacks")
    return _Session(
        folder=folder,
        of_movies=_OF_MOVIES,
        last_step="ctf_fits",
        result=f"{folder.name}~{plan.name}-0000",
        of_result=_OF_SERIES,
        last_step_of_result="thumbnails",
    )


def _followed(
    platform: Platform, sessions: list[_Session], output: ConsoleOutput
) -> dict[str, PartitionRuns]:
    """Print what happens until all is finished; partition -> its runs."""
    last_steps = {k: step for each in sessions for k, step in each.last_steps.items()}
    results = {each.result for each in sessions}
    runs = {key: PartitionRuns() for key in last_steps}
    newest = time.monotonic()
    while not all(each.is_over for each in runs.values()):
        if platform.supervisor.stopping.wait(_TICK_S):
            break
        platform.supervisor.tend()
        open_ones = {k: step for k, step in last_steps.items() if not runs[k].is_over}
        for key, now in cryoem_runs(platform.url, of=open_ones).items():
            # Of the many movies only the end and failures.
            shown = now if key in results else replace(now, assets=[])
            for line in progress(key, runs[key], shown):
                output.line(line)
                newest = time.monotonic()
            runs[key] = now
        if any(each.status in ("FAILURE", "CANCELED") for each in runs.values()):
            break  # without one of its movies the tilt series would never come
        if time.monotonic() > newest + PATIENCE_S:
            output.line(f"nothing new for {PATIENCE_S:.0f} s; see the web UI")
            break
    return runs


def _show(name: str, runs: list[PartitionRuns], output: ConsoleOutput) -> bool:
    """Print one check by its worst outcome; whether all runs have it and passed."""
    outcomes = [each.checks[name] for each in runs if name in each.checks]
    passed = sum(each.passed for each in outcomes)
    line = f"{name}: {passed} of {len(runs)} passed"
    if outcomes:
        # Of an error the largest is the worst, of a share the smallest.
        choose = min if name in _OF_PARTICLES else max
        worst = choose(outcomes, key=lambda each: each.value or 0.0)
        line += f"; {worst.sentence}"
    output.result(line)
    return passed == len(runs)
