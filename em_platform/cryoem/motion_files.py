"""What is written of a movie's motion: RELION's STAR file, drift plot and picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from em_platform.cryoem.image_files import write_figure, write_json, write_star

if TYPE_CHECKING:
    from em_platform.cryoem.image_files import StarBlock
    from em_platform.cryoem.methods.motion import Motion

Reals = NDArray[np.float64]

_ARROWS = 9
"""Places along each side of the picture whose way is drawn."""
_LOCAL_SCALE = 40.0
"""Local motion is drawn so many times larger: it is a few pixels of thousands."""


def motion_statistics(shifts_a: Reals, *, early_frames: int) -> dict[str, float]:
    """Lengths of the way in Å: of all, of the early and of the late frames, the mean.

    As cryoem-services count them: a step belongs to the frame that it leads to, and the
    mean is over all frames, the first one too.
    """
    steps = np.hypot(*np.diff(shifts_a, axis=0).T)
    early = float(steps[: max(0, early_frames - 1)].sum())
    total = float(steps.sum())
    return {
        "total_motion_a": round(total, 4),
        "early_motion_a": round(early, 4),
        "late_motion_a": round(total - early, 4),
        "average_motion_a": round(total / len(shifts_a), 4),
    }


def write_motion_star(
    path: Path,
    motion: "Motion",
    *,
    frame_shape: tuple[int, int],
    first_frame: int,
    movie: Path,
    gain: Path | None,
    general: dict[str, float],
) -> None:
    """Write the STAR file of RELION's own motion correction (version 3.1).

    Raises
    ------
    StorageError
        It could not be written.
    """
    import pandas as pd

    frames = len(motion.global_px)
    blocks: dict[str, StarBlock] = {
        "general": {
            "rlnImageSizeX": frame_shape[1],
            "rlnImageSizeY": frame_shape[0],
            "rlnImageSizeZ": frames + first_frame - 1,
            "rlnMicrographMovieName": str(movie),
            **({} if gain is None else {"rlnMicrographGainName": str(gain)}),
            **general,
            "rlnMicrographStartFrame": first_frame,
            "rlnMotionModelVersion": 0 if motion.local is None else 1,
        },
        "global_shift": pd.DataFrame(
            {
                "rlnMicrographFrameNumber": np.arange(frames) + first_frame,
                # What a frame is moved by: against the motion.
                "rlnMicrographShiftX": np.round(-motion.global_px[:, 1], 6) + 0.0,
                "rlnMicrographShiftY": np.round(-motion.global_px[:, 0], 6) + 0.0,
            }
        ),
    }
    if motion.local is not None:
        coefficients = polynomial_of(motion)
        blocks["local_motion_model"] = pd.DataFrame(
            {
                "rlnMotionModelCoeffsIdx": np.arange(len(coefficients)),
                "rlnMotionModelCoeff": coefficients,
            }
        )
    write_star(path, blocks)


def polynomial_of(motion: "Motion") -> Reals:
    """Local motion as RELION's 36 numbers: 18 of x, then 18 of y, in pixels.

    Each 18 are z, z^2, z^3 without x and y, then the same times x, x^2, y, y^2 and xy;
    z is the frame from 0, x and y are places from -0.5 to 0.5. The sign is that of the
    shifts in the STAR file.
    """
    if motion.local is None:
        raise ValueError("there is no local motion")
    places = np.linspace(-0.5, 0.5, 9)
    y, x = (each.ravel() for each in np.meshgrid(places, places, indexing="ij"))
    local = -motion.local.at(y, x)
    frames = np.arange(len(local), dtype=np.float64)
    time = np.stack([frames, frames**2, frames**3], 1)
    space = np.stack([np.ones_like(x), x, x**2, y, y**2, x * y], 1)
    # One after the other, as the design is a product of both.
    found = []
    for axis in (1, 0):
        in_space = np.linalg.lstsq(space, local[:, :, axis].T, rcond=None)[0]
        # Powers of the frame differ by thousands: scaled, the fit is well conditioned.
        scale = time.max(0)
        in_time = np.linalg.lstsq(time / scale, in_space.T, rcond=None)[0]
        found.append((in_time / scale[:, None]).T.ravel())
    return np.concatenate(found)


def write_drift_plot(path: Path, shifts: Reals) -> None:
    """Write the global shifts as the plot that SynchWeb shows (plotly's JSON).

    Raises
    ------
    StorageError
        It could not be written.
    """
    write_json(
        path,
        {
            "data": [
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "x": [round(float(x), 4) for x in shifts[:, 1]],
                    "y": [round(float(y), 4) for y in shifts[:, 0]],
                }
            ],
            "layout": {
                "title": {"text": "Drift"},
                "xaxis": {"title": {"text": "x shift (px)"}},
                "yaxis": {"title": {"text": "y shift (px)"}, "scaleanchor": "x"},
            },
        },
    )


def write_drift_picture(
    path: Path, motion: "Motion", *, shape: tuple[int, int]
) -> None:
    """Write the global way, and the local ways on the frame, as a PNG.

    Raises
    ------
    StorageError
        It could not be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), dpi=80, layout="constrained")
    way, field = figure.subplots(1, 2)
    way.plot(motion.global_px[:, 1], motion.global_px[:, 0], "-", color="0.6")
    dots = way.scatter(
        motion.global_px[:, 1],
        motion.global_px[:, 0],
        c=np.arange(1, len(motion.global_px) + 1),
        s=14,
        zorder=2,
    )
    figure.colorbar(dots, ax=way, label="frame")
    way.set(xlabel="x (px)", ylabel="y (px)", title="global motion")
    way.set_aspect("equal", "datalim")
    way.invert_yaxis()
    height, width = shape
    field.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xlabel="px")
    if motion.local is None:
        field.set_title("no local motion")
        field.text(0.5, 0.5, motion.reason, ha="center", va="center", wrap=True,
                   transform=field.transAxes, size=8)  # fmt: skip
    else:
        places = (np.arange(_ARROWS) + 0.5) / _ARROWS - 0.5
        y, x = (each.ravel() for each in np.meshgrid(places, places, indexing="ij"))
        moved = motion.local.at(y, x)
        for n in range(len(y)):
            field.plot(
                (x[n] + 0.5) * width + moved[:, n, 1] * _LOCAL_SCALE,
                (y[n] + 0.5) * height + moved[:, n, 0] * _LOCAL_SCALE,
                color="C0",
            )
        field.set_title(f"local motion, {_LOCAL_SCALE:g} times larger")
    write_figure(path, figure)
