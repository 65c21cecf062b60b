"""`job.star`: all options of a job, so that RELION and doppio run it again so.

`job_options.json` has the options of each type and what they are where nobody says:
those of ccpem-pipeliner 1.6.1, which are RELION 4's and 5's, set to what our stages do
(no 16-bit floats, also sums of even frames). `@` is the table of the job before, with
`@Folder` of that folder. Under `relion31` stand those that RELION 3.1.3 knows.

A project is run by another person than the one who sent the message: numbers come from
it, and paths of plain letters, but no program, argument or queue.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from em_platform.cryoem.methods.star_text import table, word
from em_platform.cryoem.project.jobs import EXTERNAL_31, JOB_TYPES, nodes_in
from em_platform.cryoem.project.pipeline import Dialect
from em_platform.cryoem.project.report import JobReport
from em_platform.errors import RecordError

RunValues: TypeAlias = Mapping[str, str | float | bool]
"""What is known of a job's run, by the names of cryo-EM services."""
Taken: TypeAlias = Iterable[tuple[str, str, str, str]]
"""Folder, type and experiment of the jobs before, and the table if there are many."""

_NUMBERS = {
    **{"angpix": "pixel_size", "kV": "voltage", "Cs": "spher_aber"},
    **{"Q0": "ampl_contrast", "tilt_angle": "tilt_axis_angle"},
    **{"dose_per_frame": "dose_per_frame", "dose_rate_pertilt": "dose_per_frame"},
    **{"pre_exposure": "pre_exposure", "eer_grouping": "eer_grouping"},
    **{"bin_factor": "motion_corr_binning", "bfactor": "b_factor"},
    **{"patch_x": "patches_x", "patch_y": "patches_y", "nr_threads": "threads"},
    **{"gain_rot": "rot_gain", "gain_flip": "flip_gain"},
    **{"box": "ampl_spectrum", "resmin": "min_res", "resmax": "max_res"},
    **{"dfmin": "min_defocus", "dfmax": "max_defocus", "dfstep": "defocus_step"},
    **{"log_diam_min": "min_diameter", "log_diam_max": "max_diameter"},
    **{"topaz_particle_diameter": "particle_diameter", "box_size": "cryolo_box_size"},
    **{"confidence_threshold": "cryolo_threshold", "split_size": "batch_size"},
    **{"extract_size": "boxsize", "rescale": "small_boxsize"},
    **{"do_rescale": "downscale", "nr_classes": "class2d_nr_classes"},
    **{"nr_iter": "class2d_nr_iter", "nr_iter_em": "class2d_nr_iter"},
    **{"tau_fudge": "tau_fudge", "offset_range": "offset_range"},
    **{"particle_diameter": "mask_diameter", "tomogram_thickness": "thickness_nm"},
    **{"width": "tomo_size_x", "height": "tomo_size_y", "thickness": "vol_z"},
    **{"binned_pixel_size": "pixel_size_downscaled"},
    **{"tilt_angle_offset": "manual_tilt_offset"},
    **{"aretomo_tiltcorrect_angle": "manual_tilt_offset"},
}
"""Option -> its name among the services' parameters."""
_PATHS = {"fn_gain_ref": "gain_ref", "model_path": "cryolo_model_weights"}
_CHOICES = {
    "gain_rot": (
        *("No rotation (0)", "90 degrees (1)", "180 degrees (2)", "270 degrees (3)"),
    ),
    "gain_flip": (
        *("No flipping (0)", "Flip upside down (1)", "Flip left to right (2)"),
    ),
}
# RELION puts paths into command lines as they are.
_PLAIN = re.compile(r"[\w./][\w./+=@,:-]*", re.ASCII)


@cache
def _options() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (Path(__file__).parent / "job_options.json").read_bytes()
    )
    return content


def known_of(report: JobReport, project: Path) -> dict[str, str | float | bool]:
    """What a report says of the options of its job.

    Raises
    ------
    RecordError
        One that is a number is none.
    """
    given = dict(report.relion_options)
    if isinstance(patches := given.get("patch_sizes"), Mapping):
        given |= {"patches_x": patches.get("x"), "patches_y": patches.get("y")}
    if given.get("vol_z") and given.get("pixel_size"):
        thick, pixel = (_number(name, given[name]) for name in ("vol_z", "pixel_size"))
        given["thickness_nm"] = thick * pixel / 10
    own = _options()[report.job_type]
    known: dict[str, str | float | bool] = {
        name: _number(name, given[name])
        for option, name in _NUMBERS.items()
        if option in own and given.get(name) is not None
    }
    for option, name in _PATHS.items():
        path = str(given.get(name) or "") if option in own else ""
        if _PLAIN.fullmatch(path) and (project / path).is_file():
            known[name] = path
    if JOB_TYPES[report.job_type].folder == "Import":
        made = Path(report.output_file).relative_to(project)
        folders = made.parts[:-1]
        top, below = folders[:3], folders[3:]  # one for each grid square
        known["raw"] = _pattern(Path(*top, *("*" for _ in below), f"*{made.suffix}"))
        # As upstream reports it, the series' mdocs stand behind the movie.
        _, _, mdocs = report.input_file.partition(":")
        beside = Path(report.input_file).with_name("*.mdoc")
        known["mdoc"] = _pattern(Path(mdocs) if mdocs else beside)
    return known


def _pattern(path: Path) -> str:
    return str(path) if _PLAIN.fullmatch(str(path).replace("*", "")) else ""


def _number(name: str, value: Any) -> float | bool:
    if isinstance(value, bool) or value in ("True", "False"):
        return str(value) == "True"
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RecordError(
            f"project: {name} is {str(value)[:40]!r} among the job's relion_options, a "
            "number was expected; correct the message"
        )
    return number


def job_star(
    job_type: str,
    *,
    dialect: Dialect,
    is_tomo: bool,
    is_continue: bool,
    known: RunValues,
    taken: Taken,
) -> bytes:
    """The text of `job.star`."""
    kind = JOB_TYPES[job_type]
    options = options_of(job_type, dialect=dialect, known=known, taken=taken)
    # Each reader takes one of them, and ccpem-pipeliner the number before the label.
    if dialect == "labels":
        version, named = 50001, f"_rlnJobTypeLabel {job_type}\n"
        tomo = f"_rlnJobIsTomo {int(is_tomo)}\n"
    else:
        version, named, tomo = 30001, f"_rlnJobType {kind.number}\n", ""
    text = (
        f"\n# version {version}\n\ndata_job\n\n{named}"
        f"_rlnJobIsContinue {int(is_continue)}\n{tomo}\n\n# version {version}\n\n"
    )
    rows = [[word(name), word(value)] for name, value in options.items()]
    columns = ("OptionVariable", "OptionValue")
    return (text + table("joboptions_values", columns, rows, prefix="_rlnJob")).encode()


def options_of(
    job_type: str, *, dialect: Dialect, known: RunValues, taken: Taken
) -> dict[str, str]:
    """Name and value of each option of a job, as the dialect's readers have them."""
    own = dict(_options()[job_type])
    for group in own.pop("groups"):
        own |= _options()[group]
    tables = [
        (folder.partition("/")[0], f"{folder}/{name}")
        for folder, of_type, experiment_type, star in taken
        for output in JOB_TYPES[of_type].outputs(experiment_type)[:1]
        for name, _ in nodes_in(dialect, output, [star])
    ]
    if dialect == "relion31":
        # Its queue is the site's own.
        kind = JOB_TYPES[job_type]
        folder = "External" if kind.number == EXTERNAL_31 else kind.folder
        wanted = _options()["relion31"][folder]
        # Names that only it has; `wanted` passes over those of another type.
        own = {"nr_iter": "25", "use_ctffind4": "Yes", **own}
        own = {"do_queue": "No", **{k: v for k, v in own.items() if k in wanted}}
    return {name: _value(name, default, known, tables) for name, default in own.items()}


def _value(
    name: str, default: str, known: RunValues, tables: Sequence[tuple[str, str]]
) -> str:
    if default in ("@raw", "@mdoc"):
        return str(known.get(default[1:], ""))
    if default.startswith("@"):
        folders = default[1:] or ".*"
        return next((t for f, t in tables if re.fullmatch(folders, f)), "")
    value = known.get(_PATHS.get(name) or _NUMBERS.get(name, ""))
    if value is None or isinstance(value, str):
        return value or default
    if name in _CHOICES:
        return dict(enumerate(_CHOICES[name])).get(int(value), default)
    if default in ("Yes", "No"):
        return "Yes" if value else "No"
    return str(round(value)) if _is_whole(default, value) else str(value)


def _is_whole(default: str, value: float) -> bool:
    """Whether the option, or its value, is a whole number."""
    return "." not in default or float(value).is_integer()
