"""Commands and outputs of IMOD, Topaz, membrain-seg and crYOLO."""

import re
from pathlib import Path

from em_platform.cryoem.programs.words import Fields, flagged
from em_platform.errors import FormatError

_TOPAZ_DENOISE = {
    "output_dir": "-o",
    "suffix": "--suffix",
    "model": "-m",
    "even_train_path": "-a",
    "odd_train_path": "-b",
    "n_train": "--N-train",
    "n_test": "--N-test",
    "crop": "-c",
    "base_kernel_width": "--base-kernel-width",
    "optim": "--optim",
    "lr": "--lr",
    "criteria": "--criteria",
    "momentum": "--momentum",
    "batch_size": "--batch-size",
    "num_epochs": "--num-epochs",
    "weight_decay": "-w",
    "save_interval": "--save-interval",
    "save_prefix": "--save-prefix",
    "num_workers": "--num-workers",
    "num_threads": "-j",
    "gaussian": "-g",
    "patch_size": "-s",
    "patch_padding": "-p",
    "device": "-d",
}
_MEMBRAIN = {
    "tomogram": "--tomogram-path",
    "pretrained_checkpoint": "--ckpt-path",
    "pixel_size": "--in-pixel-size",
    "window_size": "--sliding-window-size",
    "connected_component_threshold": "--connected-component-thres",
    "segmentation_threshold": "--segmentation-threshold",
}
# Switches that are written either way; field -> the switch, and what it is by default.
_MEMBRAIN_SWITCHES = {
    "rescale_patches": ("rescale-patches", True),
    "augmentation": ("test-time-augmentation", False),
    "store_probabilities": ("store-probabilities", False),
    "store_connected_components": ("store-connected-components", False),
}
_CRYOLO = {
    "cryolo_model_weights": "--weights",
    "cryolo_threshold": "--threshold",
    "min_distance": "--distance",
    "normalization_margin": "--norm_margin",
    "batch_size": "--prediction_batch_size",
    "cpu_count": "--num_cpu",
}
_NO_PICKS = "IndexError: list index out of range"


def tif2mrc_command(tiff: Path, mrc: Path) -> list[str]:
    """IMOD's command that makes an MRC stack of a TIFF."""
    return ["tif2mrc", str(tiff), str(mrc)]


def batchruntomo_command(directive: Path, *, cpus: int) -> list[str]:
    """IMOD's command that aligns and reconstructs as a directive file says."""
    words = ["batchruntomo", "-directive", str(directive)]
    return [*words, "-cpus", str(cpus), "-bypass"]


def transforms_of_imod(path: Path) -> list[tuple[float, ...]]:
    """The six numbers of each image in IMOD's `.xf`: a11 a12 a21 a22 dx dy.

    Raises
    ------
    FormatError
        A line has others.
    """
    try:
        rows = [
            tuple(float(word) for word in line.split())
            for line in path.read_text().splitlines()
            if line.strip()
        ]
    except (OSError, ValueError) as error:
        raise _unreadable("IMOD", path, error, "six numbers a line") from error
    if not rows or any(len(row) != 6 for row in rows):
        raise _unreadable("IMOD", path, "another number of columns", "six a line")
    return rows


def angles_of_imod(path: Path) -> list[float]:
    """The angles of IMOD's `.tlt` or `.rawtlt`, in degrees.

    Raises
    ------
    FormatError
        It has none.
    """
    try:
        angles = [float(word) for word in path.read_text().split()]
    except (OSError, ValueError) as error:
        raise _unreadable("IMOD", path, error, "an angle a line") from error
    if not angles:
        raise _unreadable("IMOD", path, "no angle", "one a line")
    return angles


def topaz_denoise_command(fields: Fields) -> list[str]:
    """Topaz's command that denoises a tomogram."""
    volume = str(fields["volume"])
    return ["topaz", "denoise3d", volume, *flagged(fields, _TOPAZ_DENOISE)]


def topaz_extract_command(
    fields: Fields, *, radius_px: int, scale: int = 8, threshold: float = -6
) -> list[str]:
    """Topaz's command that picks particles; `radius_px` is that of the scaled image."""
    return [
        *("topaz", "extract", "-m", str(fields.get("topaz_model") or "resnet16")),
        *("-r", str(radius_px), "-s", str(scale), "-t", str(threshold)),
        *("--per-micrograph", "-o", str(fields["output_path"])),
        str(fields["input_path"]),
    ]


def membrain_command(fields: Fields) -> list[str]:
    """membrain-seg's command that segments the membranes of a tomogram."""
    folder = fields.get("output_dir") or Path(str(fields["tomogram"])).parent
    words = ["membrain", "segment", "--out-folder", str(folder)]
    words += flagged(fields, _MEMBRAIN)
    for name, (switch, default) in _MEMBRAIN_SWITCHES.items():
        is_on = fields.get(name, default)
        words.append(f"--{switch}" if is_on else f"--no-{switch}")
    return words


def cryolo_command(fields: Fields, *, image: Path, folder: Path) -> list[str]:
    """The command of crYOLO that picks the particles of a micrograph or tomogram."""
    words = str(fields.get("cryolo_command") or "cryolo_predict.py").split()
    words += ["-i", str(image), "--conf", str(folder / "cryolo_config.json")]
    words += ["-o", str(folder)]
    if fields["experiment_type"] == "tomography":
        words += ["--tomogram", "-tsr", str(fields["tomo_tracing_search_range"])]
        words += ["-tmem", str(fields["tomo_tracing_missing_frames"])]
        words += ["-tmin", str(fields["tomo_tracing_min_frames"])]
    elif fields.get("on_the_fly", True):
        words.append("--otf")
    return [*words, *flagged(fields, _CRYOLO)]


def picks_of_cryolo(output: str) -> int:
    """How many particles crYOLO prints that it has found, without those it deleted."""
    found = re.findall(r"^\s*(\d+) particles in total has been found", output, re.M)
    gone = re.findall(r"^Deleted\s+(\d+)", output, re.M)
    return sum(map(int, found)) - sum(map(int, gone))


def found_no_picks(output: str) -> bool:
    """Whether crYOLO failed only because a micrograph has no particles."""
    return output.rstrip().endswith(_NO_PICKS)


def _unreadable(program: str, path: Path, found: object, expected: str) -> FormatError:
    return FormatError(
        f"{program}: {path} cannot be read ({found}), {expected} was expected; write "
        "it again"
    )
