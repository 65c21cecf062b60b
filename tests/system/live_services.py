"""Live services of cryo-EM as processes, and what they have left behind."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from sqlalchemy import select

from em_platform.config import RabbitmqSettings
from em_platform.cryoem.ispyb import open_ispyb
from em_platform.cryoem.ispyb.tables import METADATA
from em_platform.cryoem.recipes import placeholders_of, read_recipe
from em_platform.cryoem.services import SERVICES
from em_platform.cryoem.services.broker import (
    connected,
    dead_letters_of,
    declare,
    retries_of,
)
from em_platform.cryoem.services.local import completed, run_recipe
from em_platform.cryoem.services.process_recipe import requested
from em_platform.cryoem.services.step import ServiceContext
from em_platform.processes.fork_server import ForkedProcess
from tests.rig import fork_server

PIXEL_A = 4.0
# Imported once, for all services and for each that is started again.
_IMPORTS = (
    "em_platform.cli.cryoem_recipe",
    "em_platform.cryoem.services.live",
    "em_platform.cryoem.methods.motion",
    "em_platform.cryoem.methods.ctf",
    "em_platform.cryoem.methods.pick_log",
    "em_platform.cryoem.methods.tilt_alignment",
    "em_platform.cryoem.methods.backprojection",
    "em_platform.cryoem.methods.denoising",
    *(f"em_platform.cryoem.services.{name}" for name in SERVICES.values()
      if name != "processing_recipe"),
    "em_platform.cryoem.services.process_recipe",
    "em_platform.messaging.service",
)  # fmt: skip


class LiveServices:
    """Services by name: each `em-platform cryoem service NAME`, a fork."""

    def __init__(self, home: Path, settings: RabbitmqSettings, url: str) -> None:
        self._environment = {
            **os.environ,
            "EM_HOME": str(home / "home"),
            "EM_CRYOEM__ISPYB_URL": url,
            "EM_CRYOEM__ROOTS": f"[{home}]",
            "EM_CRYOEM__RABBITMQ__PORT": str(settings.port),
            "EM_CRYOEM__RABBITMQ__TRIES": str(settings.tries),
            "EM_CRYOEM__RABBITMQ__RETRY_S": str(settings.retry_s),
        }
        self._log = home / "services.log"
        self.running: dict[str, ForkedProcess] = {}

    def start(self, name: str) -> None:
        command = (sys.executable, "-m", "em_platform", "cryoem", "service", name)
        with self._log.open("ab") as log:
            self.running[name] = fork_server().start(
                name,
                command,
                imports=_IMPORTS,
                environment=self._environment,
                output=log.fileno(),
            )

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running.pop(name).wait(60)

    def close(self) -> None:
        for name in list(self.running):
            self.kill(name)


def write_movie(path: Path, seed: int, angle_deg: float = 0.0) -> None:
    """Three frames of dark discs in noise, each moved by one pixel."""
    rng = np.random.default_rng(seed)
    specimen = np.full((136, 136), 40.0)
    y, x = np.mgrid[:136, :136]
    # Tilts of a series show the same.
    places = np.random.default_rng(3 if angle_deg else seed).uniform(20, 116, (6, 2))
    for row, column in places:
        at = 68 + (column - 68) * np.cos(np.deg2rad(angle_deg))
        specimen[np.hypot(y - row, x - at) < 12] = 28
    frames = [rng.poisson(specimen[4 : 4 + 128, 4 + i : 4 + i + 128]) for i in range(3)]
    with mrcfile.new(path, data=np.array(frames, np.int16)) as file:
        file.voxel_size = PIXEL_A


def requests_of(
    movies: list[Path], project: Path, place: ServiceContext
) -> list[dict[str, Any]]:
    """What a dispatcher is asked for each movie, by what its name says."""
    found = []
    for movie in movies:
        recipe = "em-spa-preprocess" if "Foil" in movie.name else "em-tomo-preprocess"
        kind = "spa" if "Foil" in movie.name else "tomo"
        given = {
            "movie": str(movie),
            "mrc_out": f"{project}/{kind}/MotionCorr/job002/Movies/{movie.stem}.mrc",
            **{"pixel_size": str(PIXEL_A), "fm_dose": "0.5", "kv": "300"},
            **{"frame_count": "3", "particle_diameter": "96"},
        }
        wanted = placeholders_of(read_recipe(recipe))
        parameters = completed(given, recipe=recipe, wanted=wanted, place=place)
        found.append(
            {"recipes": [recipe], "parameters": {**parameters, "guid": movie.stem}}
        )
    return found


def align_request(
    movies: list[Path], project: Path, place: ServiceContext
) -> dict[str, Any]:
    """What a dispatcher is asked for when all tilts of the series are corrected."""
    recipe = "em-tomo-align"
    corrected = project / "tomo/MotionCorr/job002/Movies"
    tilts = [
        [str(corrected / movie.name), float(movie.name.split("_")[3])]
        for movie in movies
        if movie.name.startswith("TS_")
    ]
    stack = project / "tomo/Tomograms/job006/tomograms/TS_1_stack.mrc"
    given = {
        **{"stack_file": str(stack), "input_file_list": str(tilts)},
        **{"pixel_size": str(PIXEL_A), "kv": "300", "tilt_axis": "0"},
    }
    wanted = placeholders_of(read_recipe(recipe))
    parameters = completed(given, recipe=recipe, wanted=wanted, place=place)
    return {"recipes": [recipe], "parameters": {**parameters, "guid": "align"}}


def rows_in(url: str, project: Path) -> dict[str, list[str]]:
    """All rows of ISPyB, named by files and not by the order in which they came."""
    database = open_ispyb(url)
    with database.engine.connect() as connection:
        tables = {
            name: [dict(r) for r in connection.execute(select(table)).mappings()]
            for name, table in METADATA.tables.items()
        }
    database.close()
    names = {
        "movieId": {r["movieId"]: r["movieFullPath"] for r in tables["Movie"]},
        "motionCorrectionId": {
            r["motionCorrectionId"]: r["micrographFullPath"]
            for r in tables["MotionCorrection"]
        },
    }
    names["firstMotionCorrectionId"] = names["motionCorrectionId"]
    # Numbers and times that the database gives, and what a number stands for.
    left_out = {"ctfId", "particlePickerId", "Reference"}
    found = {}
    for name, rows in tables.items():
        shown = [
            {
                column: names.get(column, {}).get(value, value)
                for column, value in row.items()
                if column not in left_out and "Time" not in column
            }
            for row in rows
        ]
        found[name] = sorted(str(row).replace(str(project), "P") for row in shown)
    return {name: rows for name, rows in found.items() if rows}


def files_in(project: Path) -> dict[str, object]:
    """Each file of a project by what it holds; lines in any order, as reports come."""
    found: dict[str, object] = {}
    for path in sorted(project.rglob("*")):
        name = str(path.relative_to(project))
        if path.is_symlink():
            found[name] = str(path.readlink()).replace(str(project), "P")
        elif path.is_file() and not _is_of_the_moment(path, project):
            content = path.read_bytes()
            if path.suffix in (".star", ".txt", ".json", ".err", ".out"):
                text = content.decode().replace(str(project), "P")
                lines = (line.strip() for line in text.replace(",", "").split("\n"))
                content = "\n".join(sorted(lines)).encode()
            found[name] = content
        else:
            found[name] = None
    return found


def _is_of_the_moment(path: Path, project: Path) -> bool:
    """A job's copy of the pipeline as it was, or the note of a stage with times."""
    is_copy = (
        path.name == "default_pipeline.star"
        and len(path.relative_to(project).parts) > 2
    )
    return is_copy or (path.name[0] == "." and path.suffix == ".json")


def waiting(settings: RabbitmqSettings) -> dict[str, int]:
    """How many messages lie in each queue, those to be tried again and dead ones too;
    not those that a service has just now."""
    found = {}
    with connected(settings) as channel:
        for queue in SERVICES.values():
            declare(channel, queue, settings)
            for name in (queue, retries_of(queue), dead_letters_of(queue)):
                answer = channel.queue_declare(name, passive=True)
                found[name] = answer.method.message_count
    return {name: count for name, count in found.items() if count}


@contextmanager
def own_queues(settings: RabbitmqSettings, *more: str) -> Iterator[None]:
    """The queues of services, and `more` for what they send on; gone afterwards."""
    with connected(settings) as channel:
        for queue in SERVICES.values():
            declare(channel, queue, settings)
        for queue in more:
            channel.queue_declare(queue, durable=True)
    try:
        yield
    finally:
        with connected(settings) as channel:
            for queue in SERVICES.values():
                for name in (queue, retries_of(queue), dead_letters_of(queue)):
                    channel.queue_delete(name)
            for queue in more:
                channel.queue_delete(queue)


def motion_message(folder: Path, case: str, **more: Any) -> dict[str, Any]:
    """A message to MotionCorr without a recipe."""
    movie = folder / "m.mrc"
    if not movie.exists():
        write_movie(movie, 1)
    return {
        "movie": str(movie),
        "mrc_out": f"{folder}/p/MotionCorr/job002/Movies/{case.replace(' ', '_')}.mrc",
        "pixel_size": PIXEL_A,
        "patch_sizes": {"x": 1, "y": 1},
        **more,
    }


def bad_messages(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """What is wrong -> service and message."""
    whole = motion_message(folder, "x")["movie"]
    (folder / "cut.mrc").write_bytes(Path(whole).read_bytes()[:-20_000])
    noise = np.random.default_rng(0).normal(size=(3, 128, 128)).astype(np.float32)
    for name, data in (
        ("flat.mrc", np.full((3, 128, 128), 7, np.int16)),
        ("gain.mrc", np.ones((64, 128), np.float32)),
        ("nan.mrc", noise),
    ):
        with mrcfile.new(folder / name, data=data):
            pass
    with mrcfile.mmap(folder / "nan.mrc", "r+") as file:
        file.data[1, 5, 5] = np.nan
    stacks = folder / "p/Tomograms/job006/tomograms"
    stacks.mkdir(parents=True)
    with mrcfile.new(stacks / "TS_2.mrc", data=noise):
        pass
    sections = "".join(f"[ZValue = {n}]\nDefocus = 1\n\n" for n in range(3))
    (stacks / "TS_2.mrc.mdoc").write_text(f"ImageFile = TS_2.mrc\n\n{sections}")
    tilts = [[whole, 0.0], [f"{folder}/gone.mrc", 3.0], [whole, 6.0]]
    changes: dict[str, dict[str, Any]] = {
        "cut short": {"movie": f"{folder}/cut.mrc"},
        "gain": {"gain_ref": f"{folder}/gain.mrc"},
        "flat": {"movie": f"{folder}/flat.mrc"},
        "not a number": {"movie": f"{folder}/nan.mrc"},
        "no movie": {"movie": None},
        "gone": {"movie": f"{folder}/gone.mrc"},
        "fails": {"engine": "relion"},
        "hangs": {"engine": "relion", "time_limit_s": 0.5},
        "writes nothing": {"engine": "relion"},
    }
    found = {
        case: ("MotionCorr", motion_message(folder, case, **change))
        for case, change in changes.items()
    }
    del found["no movie"][1]["movie"]
    return found | {
        "no tilt": (
            "AreTomoAlign",
            {
                "stack_file": f"{stacks}/TS_1.mrc",
                "input_file_list": str(tilts),
                "pixel_size": PIXEL_A,
            },
        ),
        "no angles": (
            "AreTomoAlign",
            {"stack_file": f"{stacks}/TS_2.mrc", "pixel_size": PIXEL_A},
        ),
        "no recipe": ("ProcessRecipe", {"recipes": ["em-nothing"]}),
    }


def write_broken_program(folder: Path) -> Path:
    """A folder for PATH with a program that fails, hangs or does nothing."""
    folder.mkdir()
    program = folder / "relion_motion_correction"
    program.write_text(
        '#!/bin/sh\ncase "$*" in\n*fails*) echo no GPU >&2; exit 3;;\n'
        "*hangs*) exec sleep 600;;\nesac\n"
    )
    program.chmod(0o755)
    return folder


def leftovers(project: Path) -> list[str]:
    """What a killed service was writing."""
    marks = (".partial", ".relion_lock", f".{socket.gethostname()}.")
    names = (str(path.relative_to(project)) for path in project.rglob("*"))
    return [name for name in names if any(mark in name for mark in marks)]


def write_movies(folder: Path, *, tilts: int) -> list[Path]:
    angles = [10.5 * (number - (tilts - 1) / 2) or 0.5 for number in range(tilts)]
    movies = [folder / "FoilHole_1_fractions.mrc"]
    write_movie(movies[0], tilts)
    for number, angle in enumerate(angles, 1):
        name = f"TS_1_{number:03}_{angle}_20260101_120000_fractions.mrc"
        movies.append(folder / name)
        write_movie(movies[-1], number, angle)
    return movies


def undisturbed(movies: list[Path], folder: Path) -> tuple[Any, set[str]]:
    """Rows and files, and what leaves the platform, by the services in one process."""
    folder.mkdir()
    url = f"sqlite:///{folder / 'ispyb.sqlite'}"
    place, project = ServiceContext(ispyb_url=url), folder / "projects"
    answers = set()
    requests = requests_of(movies, project, place)
    for request in (*requests, align_request(movies, project, place)):
        guid, recipe = requested(request)
        for ran in run_recipe(recipe, place, guid=guid):
            assert ran.error is None
            if ran.is_outside:
                answers.add(json.dumps(ran.payload).replace(str(project), "P"))
    place.close()
    rows = rows_in(url, project)
    return (rows, files_in(project)), answers


def difference(found: Any, wanted: Any) -> str:
    lines = [
        f"{key}: {ours.get(key)!r:.800} != {theirs.get(key)!r:.800}"
        for ours, theirs in zip(found, wanted, strict=True)
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
    return "\n".join(lines[:12])
