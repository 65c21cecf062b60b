"""Motion correction by MotionCor2 or RELION: commands, and the shifts they print."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from em_platform.cryoem.programs.arguments import Fields, flagged
from em_platform.errors import FormatError

Shifts = list[tuple[float, float]]
"""x and y of each frame, in pixels."""

B_FACTOR = 150.0
"""Of RELION's correlation, in pixels squared."""
_INPUT_FLAGS = {
    ".mrc": "-InMrc",
    ".tif": "-InTiff",
    ".tiff": "-InTiff",
    ".eer": "-InEer",
}
# In the order of upstream's parameters, which is that of its commands.
_MOTIONCOR2 = {
    "mrc_out": "-OutMrc",
    "patch_sizes": "-Patch",
    "gpu": "-Gpu",
    "gain_ref": "-Gain",
    "rot_gain": "-RotGain",
    "flip_gain": "-FlipGain",
    "dark": "-Dark",
    "use_gpus": "-UseGpus",
    "sum_range": "-SumRange",
    "iter": "-Iter",
    "tol": "-Tol",
    "throw": "-Throw",
    "trunc": "-Trunc",
    "fm_ref": "-FmRef",
    "voltage": "-Kv",
    "fm_int_file": "-FmIntFile",
    "init_dose": "-InitDose",
    "mag": "-Mag",
    "motion_corr_binning": "-FtBin",
    "serial": "-Serial",
    "in_suffix": "-InSuffix",
    "eer_sampling": "-EerSampling",
    "out_stack": "-OutStack",
    "bft": "-Bft",
    "group": "-Group",
    "defect_file": "-DefectFile",
    "arc_dir": "-ArcDir",
    "in_fm_motion": "-InFmMotion",
    "split_sum": "-SplitSum",
}
# Before and after the patches stand flags of upstream's own order.
_RELION_BEGIN = {
    "movie": "--in_movie",
    "mrc_out": "--out_mic",
    "pixel_size": "--angpix",
    "dose_per_frame": "--dose_per_frame",
}
_RELION_END = {
    "threads": "--j",
    "gain_ref": "--gainref",
    "rot_gain": "--gain_rot",
    "flip_gain": "--gain_flip",
    "voltage": "--voltage",
    "init_dose": "--preexposure",
    "motion_corr_binning": "--bin_factor",
    "eer_sampling": "--eer_upsampling",
}


def motioncor2_command(fields: Fields) -> list[str]:
    """The command of MotionCor2 for a movie.

    Raises
    ------
    FormatError
        It reads no such files.
    """
    movie = str(fields["movie"])
    flag = _INPUT_FLAGS.get(Path(movie).suffix.lower())
    if flag is None:
        raise FormatError(
            f"MotionCor2: {movie} was found, .mrc, .tif, .tiff or .eer was expected; "
            "use the built-in engine"
        )
    own = dict(_whole_voltage(fields))
    if flag != "-InEer":
        own["fm_int_file"] = None
    first = flagged(own, {"mrc_out": "-OutMrc"})
    sizes = flagged(own, {"pixel_size": "-PixSize", "dose_per_frame": "-FmDose"})
    rest = {name: flag for name, flag in _MOTIONCOR2.items() if name != "mrc_out"}
    return ["MotionCor2", flag, movie, *first, *sizes, *flagged(own, rest)]


def relion_gain(movie: Path, gain: Path | None) -> Path | None:
    """The gain of an EER movie as RELION reads it rightly: `.gain` beside a `.mrc`."""
    if gain and movie.suffix == ".eer" and gain.suffix == ".mrc":
        beside = gain.with_suffix(".gain")
        return beside if beside.is_file() else gain
    return gain


def relion_command(fields: Fields, *, eer_grouping: int = 0) -> list[str]:
    """The command of `relion_motion_correction`, which takes one movie."""
    own = dict(_whole_voltage(fields))
    x, y = _pair(own.get("patch_sizes") or (5, 5))
    words = ["relion_motion_correction", "--use_own", *flagged(own, _RELION_BEGIN)]
    words += ["--patch_x", str(x), "--patch_y", str(y), *flagged(own, _RELION_END)]
    bft = own.get("bft") or {}
    if "local_motion" in bft:
        words += ["--bfactor", str(bft["local_motion"])]
    words += flagged(own, {"defect_file": "--defect_file"})
    if eer_grouping:
        words += ["--eer_grouping", str(eer_grouping)]
    return [*words, "--dose_weighting", "--i", "dummy"]


def relion_batch_command(
    fields: Fields, *, star: Path, folder: str, eer_grouping: int = 0
) -> list[str]:
    """The command of Debian's `relion_run_motioncorr`, for movies of a star file."""
    own = dict(_whole_voltage(fields))
    x, y = _pair(own.get("patch_sizes") or (5, 5))
    bft = (own.get("bft") or {}).get("local_motion", B_FACTOR)
    words = [
        *("relion_run_motioncorr", "--i", str(star), "--o", folder, "--use_own"),
        *("--j", str(own.get("threads") or 1)),
        *("--bin_factor", str(own.get("motion_corr_binning") or 1)),
        *("--bfactor", f"{bft:g}"),
        *("--dose_per_frame", str(own["dose_per_frame"])),
        *("--preexposure", str(own.get("init_dose") or 0)),
        *("--patch_x", str(x), "--patch_y", str(y)),
        *flagged(own, {"gain_ref": "--gainref", "rot_gain": "--gain_rot"}),
        *flagged(own, {"flip_gain": "--gain_flip", "defect_file": "--defect_file"}),
    ]
    if eer_grouping:
        words += ["--eer_grouping", str(eer_grouping)]
    return [*words, "--dose_weighting"]


def shifts_of_motioncor2(output: str) -> Shifts:
    """The shift of each frame, from what MotionCor2 1.4 to 1.6 prints.

    Raises
    ------
    FormatError
        It says none.
    """
    try:
        shifts = _printed_shifts(output)
    except (ValueError, IndexError) as error:
        raise FormatError(
            f"MotionCor2: a shift in what it printed cannot be read ({error}), two "
            "numbers for each frame were expected; see its log"
        ) from error
    if not shifts:
        raise FormatError(
            "MotionCor2: no shifts were found in what it printed, a line for each "
            "frame was expected; see its log"
        )
    return shifts


def _printed_shifts(output: str) -> Shifts:
    shifts: Shifts = []
    in_table = False
    for line in output.splitlines():
        words = line.split()
        if line.startswith("...... Frame"):
            shifts.append((float(words[-2]), float(words[-1])))
        elif "x Shift" in line:
            in_table = True
        elif not words:
            in_table = False
        elif in_table:
            shifts.append((float(words[1]), float(words[2])))
    return shifts


def shifts_of_relion(star: Path) -> Shifts:
    """The global shift of each frame, from the star file of a RELION micrograph.

    Raises
    ------
    FormatError
        There is no such table in it.
    """
    import gemmi

    try:
        block = gemmi.cif.read_file(str(star)).find_block("global_shift")
        columns = [block.find_loop(f"_rlnMicrographShift{axis}") for axis in "XY"]
        shifts = [(float(x), float(y)) for x, y in zip(*columns, strict=True)]
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise FormatError(
            f"RELION: {star} has no readable table global_shift ({error}), one was "
            "expected; run the motion correction again"
        ) from error
    if not shifts:
        raise FormatError(
            f"RELION: {star} has no shifts, one for each frame was expected; run the "
            "motion correction again"
        )
    return shifts


def _whole_voltage(fields: Fields) -> Fields:
    """Upstream writes 300, not 300.0."""
    voltage = fields.get("voltage")
    if isinstance(voltage, float) and voltage.is_integer():
        return {**fields, "voltage": int(voltage)}
    return fields


def _pair(value: Mapping[str, int] | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, Mapping):
        return value["x"], value["y"]
    return value[0], value[1]
