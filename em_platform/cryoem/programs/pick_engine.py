"""The particles of a micrograph by crYOLO or Topaz, as our own picker has them."""

import json
from pathlib import Path

import numpy as np

from em_platform.cryoem.methods.coordinates import read_points, read_scores, read_sizes
from em_platform.cryoem.methods.pick_log import Picks
from em_platform.cryoem.programs import others
from em_platform.cryoem.programs.arguments import Parameters
from em_platform.cryoem.programs.engine import refuse
from em_platform.cryoem.programs.run import Ran, check_written, run_program, scratch
from em_platform.errors import ConfigError, FormatError

_CRYOLO_THRESHOLD, _TOPAZ_THRESHOLD = 0.3, -6.0
# In pixels, as cryo-EM services have it, where no diameter was given.
_CRYOLO_BOX_PX = 160


def run(parameters: Parameters, folder: Path) -> tuple[Picks, dict[str, str]]:
    """The picks by falling score, and what the program is."""
    refuse(parameters, "bright", engine=parameters.engine)
    log = folder / f"{parameters.micrograph.stem}_picks.log"
    by = _by_cryolo if parameters.engine == "cryolo" else _by_topaz
    with scratch(folder) as inside:
        picks, ran = by(parameters, inside, log)
    order = np.argsort(-picks.scores, kind="stable")
    sorted_picks = Picks(
        points=picks.points[order],
        diameters_px=picks.diameters_px[order],
        scores=picks.scores[order],
    )
    return sorted_picks, {"program": ran.program}


def _by_cryolo(parameters: Parameters, inside: Path, log: Path) -> tuple[Picks, Ran]:
    if parameters.cryolo_model_weights is None:
        raise ConfigError(
            "pick: crYOLO picks by a model and none was given; give its weights (.h5) "
            "by --cryolo-weights"
        )
    threshold = parameters.log_threshold or parameters.cryolo_threshold
    threshold = threshold or _CRYOLO_THRESHOLD
    box = parameters.cryolo_box_size or _CRYOLO_BOX_PX
    if parameters.particle_diameter and not parameters.cryolo_box_size:
        box = round(parameters.particle_diameter / parameters.pixel_size)
    (inside / "cryolo_config.json").write_text(json.dumps(others.cryolo_config(box)))
    image = parameters.micrograph.absolute()
    fields = parameters.model_dump() | {
        "cryolo_model_weights": parameters.cryolo_model_weights.absolute(),
        "cryolo_threshold": threshold,
    }
    ran = run_program(
        others.cryolo_command(fields, image=image, folder=inside),
        log=log,
        folder=inside,
        time_limit_s=parameters.time_limit_s,
        is_fine=others.found_no_picks,
    )
    cbox = inside / "CBOX" / f"{image.stem}.cbox"
    if others.found_no_picks(ran.output):
        return _picks([], [], []), ran
    check_written(ran, [cbox], log=log)
    points, scores = read_points(cbox), read_scores(cbox)
    if scores is None and points:
        raise FormatError(f"crYOLO: {cbox.name} has no scores; see {log.name}")
    found = _picks(points, [] if scores is None else scores, read_sizes(cbox))
    # A CBOX has the doubtful ones, too, for its user to choose from.
    sure = found.scores >= threshold
    return (
        Picks(
            points=found.points[sure],
            diameters_px=found.diameters_px[sure],
            scores=found.scores[sure],
        ),
        ran,
    )


def _by_topaz(parameters: Parameters, inside: Path, log: Path) -> tuple[Picks, Ran]:
    image = parameters.micrograph.absolute()
    small, table = inside / "scaled" / f"{image.stem}.mrc", inside / "picks.txt"
    limit, scale = parameters.time_limit_s, parameters.scale
    run_program(
        others.topaz_preprocess_command(image, folder=small.parent, scale=scale),
        log=log,
        makes=[small],
        time_limit_s=limit,
    )
    diameter = sum(parameters.diameters_a) / 2
    given = parameters.log_threshold
    ran = run_program(
        others.topaz_extract_command(
            {
                "topaz_model": parameters.topaz_model,
                "input_path": small,
                "output_path": table,
            },
            radius_px=max(1, int(diameter / parameters.pixel_size / scale / 2)),
            scale=scale,
            threshold=_TOPAZ_THRESHOLD if given is None else given,
            of_small_image=True,
        ),
        log=log,
        makes=[table],
        time_limit_s=limit,
    )
    rows = others.picks_of_topaz(table)
    size = parameters.particle_diameter or diameter
    points = [(x, y) for x, y, _ in rows]
    sizes = [size / parameters.pixel_size] * len(rows)
    return _picks(points, [score for *_, score in rows], sizes), ran


def _picks(points: object, scores: object, diameters_px: object) -> Picks:
    return Picks(
        points=np.array(points, float).reshape(-1, 2),
        scores=np.array(scores, float),
        diameters_px=np.array(diameters_px, float),
    )
