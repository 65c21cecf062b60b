"""Commands and outputs of Topaz, membrain-seg and crYOLO."""

import re
from pathlib import Path

from em_platform.cryoem.programs.arguments import Fields, flagged
from em_platform.errors import FormatError
from em_platform.model import JsonObject

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
    "cryolo_gpus": "-g",
    "min_distance": "--distance",
    "normalization_margin": "--norm_margin",
    "batch_size": "--prediction_batch_size",
    "cpu_count": "--num_cpu",
}
_NO_PICKS = "IndexError: list index out of range"


def topaz_denoise_command(fields: Fields) -> list[str]:
    """Topaz's command that denoises a tomogram."""
    volume = str(fields["volume"])
    return ["topaz", "denoise3d", volume, *flagged(fields, _TOPAZ_DENOISE)]


def topaz_preprocess_command(image: Path, *, folder: Path, scale: int) -> list[str]:
    """Topaz's command that makes the small image in which it looks for particles."""
    return ["topaz", "preprocess", "-s", str(scale), "-o", str(folder), str(image)]


def topaz_extract_command(
    fields: Fields,
    *,
    radius_px: int,
    scale: int = 8,
    threshold: float = -6,
    of_small_image: bool = False,
) -> list[str]:
    """Topaz's command that picks particles; `radius_px` is that of the scaled image.

    cryo-EM services call Topaz's functions and only report this command: its `-s` would
    divide coordinates. `of_small_image` gives the one that multiplies them.
    """
    flag, rest = ("-x", []) if of_small_image else ("-s", ["--per-micrograph"])
    return [
        *("topaz", "extract", "-m", str(fields.get("topaz_model") or "resnet16")),
        *("-r", str(radius_px), flag, str(scale), "-t", f"{threshold:g}", *rest),
        *("-o", str(fields["output_path"]), str(fields["input_path"])),
    ]


def picks_of_topaz(path: Path) -> list[tuple[float, float, float]]:
    """x, y and score of each particle in the table of `topaz extract`.

    Raises
    ------
    FormatError
        A line has no three numbers behind the name of the image.
    """
    try:
        lines = path.read_text().splitlines()
        if not lines[0].startswith("image_name"):
            raise ValueError(f"its first line is {lines[0][:40]!r}")
        rows = [line.split()[-3:] for line in lines[1:]]
        return [(float(x), float(y), float(score)) for x, y, score in rows]
    except (OSError, ValueError, IndexError) as error:
        raise FormatError(
            f"Topaz: {path.name} cannot be read as picks ({error}), image, x, y and "
            "score a line were expected; run it again"
        ) from error


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


def cryolo_config(box_px: int) -> JsonObject:
    """The configuration with which cryo-EM services have crYOLO pick."""
    return {
        "model": {
            "architecture": "PhosaurusNet",
            "input_size": 1024,
            "max_box_per_image": 600,
            "norm": "STANDARD",
            "num_patches": 1,
            "filter": [0.1, "filtered"],
            "anchors": [box_px, box_px],
        },
        "other": {"log_path": "logs/"},
    }


def picks_of_cryolo(output: str) -> int:
    """How many particles crYOLO prints that it has found, without those it deleted."""
    found = re.findall(r"^\s*(\d+) particles in total has been found", output, re.M)
    gone = re.findall(r"^Deleted\s+(\d+)", output, re.M)
    return sum(map(int, found)) - sum(map(int, gone))


def found_no_picks(output: str) -> bool:
    """Whether a micrograph has no particles, which crYOLO can take for a failure."""
    is_none = re.search(r"^\s*0 particles in total has been found", output, re.M)
    return bool(is_none) or output.rstrip().endswith(_NO_PICKS)
