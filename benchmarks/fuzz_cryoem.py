"""How each file of cryo-EM and of simulated tilt series is read, changed before."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz_cryoem_files import SHAPE
from benchmarks.fuzz_mutations import VALUES, mutated_json, mutation_of

Reader = Callable[[Path, random.Random], object]


def _movie(path: Path, draw: random.Random) -> object:
    from em_platform.cryoem.headers import read_header
    from em_platform.cryoem.movies import open_movie

    movie = open_movie(path, eer_grouping=draw.choice((1, 2)))
    frame = movie.frame(draw.randrange(movie.shape[0]))
    assert frame.shape == movie.shape[1:]
    return read_header(path)


def _series(path: Path, draw: random.Random) -> object:
    from em_platform.cryoem.tilt_series import Images, find_series

    series = find_series(path.with_name("a.mrc"), tilts=path)
    return series.angles_deg, Images


def _corrections(path: Path, draw: random.Random) -> object:
    from em_platform.cryoem.references import load_corrections

    gain = path if path.name == "gain.mrc" else None
    defects = path if gain is None else None
    turns, flips = draw.randrange(4), draw.randrange(3)
    return load_corrections(
        SHAPE, gain=gain, rotated=turns, flipped=flips, dark=None, defects=defects
    )


def _alignment(path: Path, _: random.Random) -> object:
    from em_platform.cryoem.alignment_files import read_alignment

    # The angles of an .xf are in a file beside it.
    return read_alignment(path.with_suffix(".xf") if path.suffix == ".tlt" else path)


def _particles(path: Path, draw: random.Random) -> object:
    from em_platform.cryoem.methods.coordinates import read_points, read_scores
    from em_platform.cryoem.methods.particle_star import read_particles
    from em_platform.cryoem.project.tables import rows_of

    how: list[Callable[[], object]] = [
        lambda: read_particles(path),
        lambda: (read_points(path), read_scores(path)),
        lambda: rows_of(path, "particles"),
    ]
    return draw.choice(how)()


def _boxes(path: Path, draw: random.Random) -> object:
    from em_platform.cryoem.methods.coordinates import read_boxes_3d, read_points

    return draw.choice((read_boxes_3d, read_points))(path)


def _shifts(path: Path, _: random.Random) -> object:
    from em_platform.cryoem.programs.motion import shifts_of_relion

    return shifts_of_relion(path)


def _pipeline(path: Path, _: random.Random) -> object:
    from em_platform.cryoem.project.pipeline import read_pipeline

    return read_pipeline(path)


def _ctf(path: Path, _: random.Random) -> object:
    from em_platform.cryoem.programs.ctffind import fits_of_table

    return fits_of_table(path)


def _printed(path: Path, draw: random.Random) -> object:
    from em_platform.cryoem.programs.aretomo import output_of
    from em_platform.cryoem.programs.ctffind import fit_of_output
    from em_platform.cryoem.programs.motion import shifts_of_motioncor2
    from em_platform.cryoem.programs.others import picks_of_cryolo

    how = (output_of, fit_of_output, shifts_of_motioncor2, picks_of_cryolo)
    return draw.choice(how)(path.read_text(errors="replace"))


def _recipe(path: Path, _: random.Random) -> object:
    from em_platform.cryoem.recipes.lint import lint_recipe
    from em_platform.cryoem.recipes.read import read_recipe_file

    return lint_recipe(read_recipe_file(str(path)), {"dcid": 1})


def _plan(path: Path, _: random.Random) -> object:
    from em_platform.simulation.tilt_series.plan_file import read_plan

    return read_plan(path.with_name("configs.yaml")).model_dump_json()


_READERS: dict[str, Reader] = {
    "movie.eer": _movie,
    "a.mrc": _movie,
    "gain.mrc": _corrections,
    "defects.txt": _corrections,
    "a.mrc.mdoc": _series,
    "a.rawtlt": _series,
    "a.aln": _alignment,
    "a.xf": _alignment,
    "a.tlt": _alignment,
    "particles.star": _particles,
    "shifts.star": _shifts,
    "picks.cbox": _boxes,
    "default_pipeline.star": _pipeline,
    "ctf.txt": _ctf,
    "printed.txt": _printed,
    "recipe.json": _recipe,
    "sim.txt": _plan,
    "coord.txt": _plan,
    "configs.yaml": _plan,
}


def read_cryoem(draw: random.Random, seeds: Path, folder: Path) -> None:
    """One of the files changed, and read as its program's."""
    name = draw.choice(sorted(_READERS))
    shutil.copytree(seeds / "cryoem", folder, dirs_exist_ok=True)
    for copy in ("bead.mrc", "stack.mrcs"):
        shutil.copy(folder / "a.mrc", folder / copy)
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(mutation_of(name, content, draw)(content, draw))
    _READERS[name](path, draw)


def handle_recipe_message(draw: random.Random, seeds: Path, folder: Path) -> None:
    """A message as zocalo sends it, changed, to one of the services."""
    from em_platform.config import Settings
    from em_platform.cryoem.services import load_service
    from em_platform.cryoem.services.local import place_of
    from em_platform.cryoem.services.step import handle_message

    step = {"service": "NodeCreator", "queue": "node_creator", "parameters": {},
            "output": {"success": 2}}  # fmt: skip
    recipe = {
        "1": step,
        "2": {"service": "Images", "queue": "images"},
        "start": [[1, []]],
    }
    payload = {"job_type": "relion.import.movies", "input_file": f"{folder}/a.mrc",
               "output_file": f"{folder}/Import/job001/a.mrc", "dcid": 1,
               "relion_options": {}, "command": "", "stdout": "", "stderr": "",
               "file": f"{folder}/a.mrc", "image_command": "mrc_to_jpeg",
               "stack_file": f"{folder}/a.mrc"}  # fmt: skip
    body = {"recipe": recipe, "recipe-pointer": 1, "recipe-path": [],
            "environment": {"ID": "a"}, "payload": payload}  # fmt: skip
    is_recipe = draw.random() < 0.5
    content = json.dumps(body if is_recipe else payload).encode()
    try:
        changed = json.loads(mutated_json(content, draw))
    except ValueError:
        changed = draw.choice(VALUES)
    headers = {"workflows-recipe": "True"} if is_recipe else {}
    shutil.copy(seeds / "cryoem" / "a.mrc", folder)
    service = load_service(draw.choice(("Images", "NodeCreator")))
    settings = Settings(home=folder / "home")
    with contextlib.chdir(folder):  # a path that became a relative one
        handle_message(service, headers, changed, place_of(settings))
