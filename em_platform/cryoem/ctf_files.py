"""What is written of a fitted micrograph: picture of its rings, CTFFIND's tables."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from em_platform.cryoem.image_files import write_figure
from em_platform.storage import atomic

if TYPE_CHECKING:
    from em_platform.cryoem.methods.ctf import Fit, Lens
    from em_platform.cryoem.methods.ctf_profile import Profile

Reals = NDArray[np.float64]


def diagnostic_image(
    power: NDArray[np.float32], lens: "Lens", fit: "Fit", *, resolution_a: float
) -> NDArray[np.float32]:
    """The measured spectrum at the left, the fit at the right up to its resolution.

    Parameters
    ----------
    power
        `(box, box // 2 + 1)`.

    Returns
    -------
    image
        `(box, box)`, the zero frequency in the middle; rings from 0 to 1.
    """
    from em_platform.cryoem.methods.ctf import phase, thinning

    box = power.shape[0]
    log_power = np.log(np.maximum(power, power[power > 0].min()))
    y = np.fft.fftfreq(box)[:, None] * box
    x = np.arange(box // 2 + 1.0)[None]
    radius = np.hypot(y, x)
    data = np.fft.fftshift(_ring_contrast(log_power, radius), axes=0)
    k = radius / (box * lens.pixel_size_a)
    middle = (fit.defocus_u_a + fit.defocus_v_a) / 2
    half = (fit.defocus_u_a - fit.defocus_v_a) / 2
    turned = np.arctan2(y, x) - np.deg2rad(fit.azimuth_deg)
    defocus = middle + half * np.cos(2 * turned)
    rings = np.cos(2 * phase(k, defocus, lens, fit.phase_shift_deg))
    model = 0.5 - 0.5 * rings * thinning(k, lens, fit.thickness_a)
    model = np.fft.fftshift(np.where(k <= 1 / resolution_a, model, 0.5), axes=0)
    image = np.empty((box, box), np.float32)
    # A spectrum is the same through its middle: row r is row -r at the other side.
    opposite = data[-np.arange(box) % box]
    image[:, : box // 2 + 1] = opposite[:, box // 2 :: -1]
    image[:, box // 2 :] = model[:, : box // 2]
    return image


def _ring_contrast(log_power: NDArray[np.float32], radius: Reals) -> Reals:
    """Rings around 0.5, the slow fall towards high frequencies taken out."""
    from scipy.ndimage import gaussian_filter1d

    ring = radius.round().astype(int)
    count = np.bincount(ring.ravel())
    mean = np.bincount(ring.ravel(), log_power.ravel()) / np.maximum(count, 1)
    smooth = gaussian_filter1d(mean, len(mean) / 25)
    rest = log_power - smooth[ring]
    # Spread of the outer part: near the middle the fall is too steep to be taken out.
    spread = 4 * float(rest[ring > len(mean) / 10].std()) or 1.0
    return np.asarray(np.clip(0.5 + rest / spread, 0, 1))


def write_picture(
    path: Path,
    shown: NDArray[np.float32],
    lens: "Lens",
    fit: "Fit",
    profile: "Profile",
    *,
    resolution_a: float,
) -> None:
    """Write the rings with their fit, and both along the frequency, as a PNG.

    Raises
    ------
    StorageError
        It could not be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), dpi=80, layout="constrained")
    rings, lines = figure.subplots(1, 2, width_ratios=(1, 1.2))
    nyquist = 1 / (2 * lens.pixel_size_a)
    extent = (-nyquist, nyquist, nyquist, -nyquist)
    rings.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=extent)
    turn = np.linspace(0, 2 * np.pi, 200)
    edge = 1 / resolution_a
    rings.plot(edge * np.cos(turn), edge * np.sin(turn), color="C1", lw=1)
    rings.set(
        title=f"measured | fit to {resolution_a:.1f} Å",
        xlabel="1/Å",
        xlim=(-nyquist, nyquist),
        ylim=(nyquist, -nyquist),
    )
    k = profile.frequency
    scale = 4 * float(np.std(profile.along_rings[len(k) // 10 :])) or 1.0
    lines.plot(k, 0.5 + profile.along_rings / scale, color="0.5", label="measured")
    lines.plot(k, profile.model, color="C0", lw=1, label="fit")
    lines.plot(k, profile.quality, color="C2", lw=1, label="agreement")
    lines.axvline(edge, color="C1")
    lines.set(
        ylim=(-0.3, 1.2),
        xlabel="1/Å",
        title=f"{fit.defocus_u_a:.0f} and {fit.defocus_v_a:.0f} Å at "
        f"{fit.azimuth_deg:.0f}°, phase {fit.phase_shift_deg:.0f}°, "
        f"score {fit.score:.3f}",
    )
    lines.legend(loc="lower right", fontsize=8)
    write_figure(path, figure)


def write_table(path: Path, head: str, fit: "Fit", *, resolution_a: float) -> None:
    """Write CTFFIND's line of seven numbers, phase shift in radians.

    Raises
    ------
    StorageError
        It could not be written.
    """
    columns = (
        "# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus "
        "2; #4 - azimuth of astigmatism; #5 - additional phase shift [radians]; #6 - "
        "cross correlation; #7 - spacing (in Angstroms) up to which CTF rings were fit "
        "successfully"
    )
    numbers = (
        *(1.0, fit.defocus_u_a, fit.defocus_v_a, fit.azimuth_deg),
        *(np.deg2rad(fit.phase_shift_deg), fit.score, resolution_a),
    )
    line = " ".join(f"{number:.6f}" for number in numbers)
    atomic.write_bytes(path, f"{head}\n{columns}\n{line}\n".encode())


def write_profile(path: Path, head: str, profile: "Profile") -> None:
    """Write CTFFIND's six lines along the frequency, for its own plots and parsers.

    Raises
    ------
    StorageError
        It could not be written.
    """
    columns = (
        "# 6 lines per micrograph: #1 - spatial frequency (1/Angstroms); #2 - 1D "
        "rotational average of spectrum (assuming no astigmatism); #3 - 1D rotational "
        "average of spectrum; #4 - CTF fit; #5 - cross-correlation between spectrum "
        "and CTF fit; #6 - 2sigma of expected cross correlation of noise"
    )
    noise = np.full_like(profile.frequency, profile.noise)
    rows = (
        *(profile.frequency, profile.average, profile.along_rings),
        *(profile.model, profile.quality, noise),
    )
    lines = [" ".join(f"{value:.6f}" for value in row) for row in rows]
    # Five lines stand before the numbers: parsers count them.
    text = "\n".join([head, columns, *lines])
    atomic.write_bytes(path, f"{text}\n".encode())
