"""IMOD: commands, the directives of batchruntomo, and what tiltalign prints.

Its `.xf` and `.tlt` are read by `em_platform.cryoem.alignment_files`. Directives: those
of cryoem-services' ImodTomoAlign, and https://bio3d.colorado.edu/imod/doc/directives.html
"""

import re
from collections.abc import Sequence
from pathlib import Path

_LAST_OF_ALIGNMENT = 6
"""The step of batchruntomo that writes the transforms."""
# Patches of this share of the image's shorter side, half of which neighbours share.
_PATCH, _LEAST_PATCH_PX, _OVERLAP = 0.25, 100, 0.33


def tif2mrc_command(tiff: Path, mrc: Path) -> list[str]:
    """The command that makes an MRC stack of a TIFF."""
    return ["tif2mrc", str(tiff), str(mrc)]


def batchruntomo_command(
    directive: Path, *, cpus: int, only_align: bool = False
) -> list[str]:
    """The command that aligns, and reconstructs, as a directive file says."""
    words = ["batchruntomo", "-directive", str(directive), "-cpus", str(cpus)]
    words.append("-bypass")
    return [*words, "-EndingStep", str(_LAST_OF_ALIGNMENT)] if only_align else words


def patch_tracking(
    stack: Path,
    *,
    shape: tuple[int, int],
    pixel_size_a: float,
    axis_deg: float,
) -> str:
    """Directives by which batchruntomo aligns a stack of `(h, w)` by patch tracking.

    Angles are those of the `.rawtlt` beside the stack.
    """
    side = max(_LEAST_PATCH_PX, round(_PATCH * min(shape)))
    directives = {
        "setupset.datasetDirectory": stack.parent,
        "setupset.copyarg.name": stack.stem,
        "setupset.copyarg.stackext": "mrc",
        "setupset.copyarg.userawtlt": 1,
        "setupset.copyarg.dual": 0,
        "setupset.copyarg.pixel": f"{pixel_size_a / 10:g}",
        "setupset.copyarg.gold": 0,
        "setupset.copyarg.rotation": f"{axis_deg:g}",
        "setupset.copyarg.extract": 0,
        "runtime.Preprocessing.any.removeXrays": 0,
        "runtime.Fiducials.any.trackingMethod": 1,
        "comparam.xcorr_pt.tiltxcorr.SizeOfPatchesXandY": f"{side} {side}",
        "comparam.xcorr_pt.tiltxcorr.OverlapOfPatchesXandY": f"{_OVERLAP} {_OVERLAP}",
        "comparam.xcorr_pt.tiltxcorr.IterateCorrelations": 1,
        "runtime.PatchTracking.any.adjustTiltAngles": 1,
        "comparam.align.tiltalign.SurfacesToAnalyze": 1,
        "comparam.align.tiltalign.LocalAlignments": 0,
        "comparam.align.tiltalign.MagOption": 0,
        "comparam.align.tiltalign.TiltOption": 0,
        "comparam.align.tiltalign.RotOption": -1,
        "comparam.align.tiltalign.RobustFitting": 1,
    }
    return "".join(f"{key}={value}\n" for key, value in directives.items())


def newstack_command(
    stack: Path, aligned: Path, *, xf: Path, binning: int, size: Sequence[int]
) -> list[str]:
    """The command that makes the aligned stack; `size` is its width and height."""
    return [
        *("newstack", "-input", str(stack), "-output", str(aligned)),
        *("-xform", str(xf), "-bin", str(binning), "-mode", "2"),
        *("-size", ",".join(str(side) for side in size)),
    ]


def tilt_command() -> list[str]:
    """The command that reconstructs; all it has to know goes to its input."""
    return ["tilt", "-StandardInput"]


def residual_of(output: str) -> float | None:
    """The mean residual, in pixels, that tiltalign prints last; None: it does not."""
    found = re.findall(r"Residual error mean and sd:\s+(\d+\.\d+)", output)
    return float(found[-1]) if found else None
