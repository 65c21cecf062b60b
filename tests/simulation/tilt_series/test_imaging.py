"""The physics of an image, against what is known of it beforehand."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample
from em_platform.simulation.tilt_series.detector import Detector, counted, recorded
from em_platform.simulation.tilt_series.detector import transfer as mtf
from em_platform.simulation.tilt_series.geometry import (
    Film,
    Tilt,
    is_even,
    paths,
    rotation,
)
from em_platform.simulation.tilt_series.image import (
    Particle,
    linear_contrast,
    multislice_contrast,
)
from em_platform.simulation.tilt_series.layers import (
    View,
    scene_of,
    strong_layers,
    weak_layers,
)
from em_platform.simulation.tilt_series.optics import (
    Defocus,
    Lens,
    aberration,
    frequencies,
    interaction_rad_per_v_nm,
    phase_at,
    phase_terms,
    wavelength_nm,
)
from em_platform.simulation.tilt_series.scattering import (
    CARBON,
    ice_of,
    loss,
    total_per_nm,
)
from tests.simulation.tilt_series.conftest import blobs

LENS = Lens(energy_spread_ev=0, convergence_rad=0, spherical_nm=2.7e6)
SHAPE = 96, 80
PIXEL_NM = 1.0


def tilt_of(
    degrees: float = 0.0, *, defocus_nm: float = 2000.0, axis_deg: float = 30.0
) -> Tilt:
    return Tilt(
        index=0, order=0, nominal_deg=degrees, tilt_deg=degrees, axis_deg=axis_deg,
        shift_nm=(1.3, -2.4), dose_per_nm2=300, prior_dose_per_nm2=0,
        defocus=Defocus(u_nm=defocus_nm, v_nm=defocus_nm),
    )  # fmt: skip


def contrast(
    sample: Sample, tilt: Tilt, *, mode: str = "linear"
) -> NDArray[np.float32]:
    scene = scene_of(sample, pixel_nm=PIXEL_NM)
    view = View(tilt=tilt, shape=SHAPE, pixel_nm=PIXEL_NM, voltage_v=LENS.voltage_v)
    seen_by = {"lens": LENS, "tilt": tilt, "pixel_nm": PIXEL_NM, "shape": SHAPE}
    if mode == "linear":
        spectrum = linear_contrast(weak_layers(scene, view), **seen_by)
    else:
        spectrum = multislice_contrast(strong_layers(scene, view), **seen_by)
    return np.fft.irfft2(spectrum, s=SHAPE).astype(np.float32)


def particle(
    *, at: tuple[float, float, float] = (0, 0, 0), turn: float = 0.0, scale: float = 1.0
) -> Sample:
    pose = Particle(
        template=0,
        position_nm=at,
        rotation=Rotation.from_euler(
            "zxz", (turn, 2 * turn, 3), degrees=True
        ).as_matrix(),
    )
    kept = DensityMap(name="blob", potential_v=scale * blobs(), voxel_nm=1.0)
    return Sample(maps=(kept,), particles=(pose,))


def off(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """How far one image is from another, as a share of it."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_constants_of_the_beam_are_those_of_the_textbook() -> None:
    # Reimer & Kohl (2008), table 2.2; Kirkland (2010), table 2.2.
    assert wavelength_nm(300_000) == pytest.approx(0.0019687, rel=1e-4)
    assert wavelength_nm(100_000) == pytest.approx(0.0037014, rel=1e-4)
    assert interaction_rad_per_v_nm(300_000) == pytest.approx(0.006526, rel=1e-3)
    assert interaction_rad_per_v_nm(100_000) == pytest.approx(0.009244, rel=1e-3)


def test_astigmatism_is_along_its_azimuth() -> None:
    defocus = Defocus(u_nm=2400, v_nm=1600, azimuth_rad=np.deg2rad(30))
    angles = np.deg2rad([30, 120, 75])
    qx, qy = 0.2 * np.cos(angles), 0.2 * np.sin(angles)
    found = np.diag(aberration(qy[:, None], qx[None, :], lens=LENS, defocus=defocus))
    for value, nm in zip(found, (2400, 1600, 2000), strict=True):
        plain = np.pi * wavelength_nm(3e5) * nm * 0.04
        plain -= np.pi / 2 * 2.7e6 * wavelength_nm(3e5) ** 3 * 0.04**2
        assert value == pytest.approx(plain)
    by_kernel = phase_at(qy[2], qx[2], phase_terms(LENS, defocus))
    assert by_kernel == pytest.approx(found[2])


@pytest.mark.parametrize("degrees", [0, 37, -60])
def test_a_projection_is_the_sum_of_the_turned_map_along_the_beam(
    degrees: float,
) -> None:
    tilt = tilt_of(degrees)
    sample = particle(at=(6, -9, 12), turn=40)
    view = View(tilt=tilt, shape=SHAPE, pixel_nm=PIXEL_NM, voltage_v=3e5)
    (layer,) = weak_layers(scene_of(sample, pixel_nm=PIXEL_NM), view)
    assert np.abs(layer.odd_v_nm).max() < 0.01 * np.abs(layer.even_v_nm).max()
    expected = projected(sample, tilt)
    assert off(layer.even_v_nm, expected) < 0.02


def projected(sample: Sample, tilt: Tilt) -> NDArray[np.float32]:
    """The same by turning the map in real space, voxel by voxel."""
    total = np.zeros(SHAPE)
    for each in sample.particles:
        kept = sample.maps[each.template]
        turn = rotation(tilt).T @ each.rotation
        x, y, _ = rotation(tilt).T @ each.position_nm
        place = np.array([0, y + tilt.shift_nm[0], x + tilt.shift_nm[1]])
        # Arrays are z, y, x; an output voxel v comes from R^-1 (v - place) + n // 2.
        back = turn.T[::-1, ::-1]
        middle = np.array([48, SHAPE[0] // 2, SHAPE[1] // 2])
        half = np.array(kept.potential_v.shape) // 2
        offset = half - back @ (middle + place)
        turned = affine_transform(
            kept.potential_v.astype(float), back, offset, (96, *SHAPE), order=3
        )
        total += turned.sum(axis=0)
    return total.astype(np.float32)


@pytest.mark.parametrize("mode", ["linear", "multislice"])
def test_what_lies_deeper_has_so_much_more_defocus(mode: str) -> None:
    deep = particle(at=(5, 3, 400.0), turn=20, scale=0.1)
    flat = particle(at=(5, 3, 0), turn=20, scale=0.1)
    found = contrast(deep, tilt_of(defocus_nm=1600), mode=mode)
    expected = contrast(flat, tilt_of(defocus_nm=2000), mode=mode)
    assert off(found, expected) < 0.01
    assert off(found, contrast(flat, tilt_of(defocus_nm=1600), mode=mode)) > 0.2


def test_a_weak_object_looks_the_same_in_both_modes_and_a_strong_one_does_not() -> None:
    tilt = tilt_of(25)
    for scale, least, most in ((0.01, 0, 0.02), (5, 0.05, 1)):
        sample = particle(at=(4, 4, 30), turn=15, scale=scale)
        weak, strong = (
            contrast(sample, tilt, mode=m) for m in ("linear", "multislice")
        )
        assert least <= off(strong, weak) < most


def test_protein_is_darker_than_ice_when_underfocused() -> None:
    image = contrast(particle(at=(0, 0, 0)), tilt_of(0))
    middle = image[
        SHAPE[0] // 2 - 3 : SHAPE[0] // 2 + 5, SHAPE[1] // 2 - 6 : SHAPE[1] // 2 + 3
    ]
    assert middle.mean() < 0 < image[:8].mean() + 1e-3


@pytest.mark.parametrize("mode", ["linear", "multislice"])
@pytest.mark.parametrize("degrees", [0, 50])
def test_a_density_and_a_particle_of_the_same_map_look_the_same(
    mode: str, degrees: float
) -> None:
    """Both renderers: central sections, and voxels spread over pixels."""
    as_density = Sample(
        maps=(),
        particles=(),
        density=DensityMap(name="d", potential_v=blobs(), voxel_nm=1.0),
    )
    still = particle()
    still = Sample(
        maps=still.maps,
        particles=(Particle(template=0, position_nm=(0, 0, 0), rotation=np.eye(3)),),
    )
    tilt = tilt_of(degrees)
    found = contrast(as_density, tilt, mode=mode)
    assert off(found, contrast(still, tilt, mode=mode)) < 0.05


def test_a_density_and_particles_are_imaged_together_in_the_order_of_the_beam() -> None:
    one = particle(at=(-8, 0, 60), turn=33)
    density = DensityMap(name="d", potential_v=blobs(), voxel_nm=1.0)
    both = Sample(maps=one.maps, particles=one.particles, density=density)
    tilt = tilt_of(10)
    alone = Sample(maps=(), particles=(), density=density)
    summed = contrast(one, tilt) + contrast(alone, tilt)
    assert off(contrast(both, tilt), summed) < 1e-4
    assert off(contrast(both, tilt, mode="multislice"), summed) < 0.2


def test_electrons_cross_more_ice_when_it_is_tilted_and_carbon_beyond_the_hole() -> (
    None
):
    tilt = tilt_of(60, axis_deg=0)
    even, _ = paths(Film(thickness_nm=80), tilt, shape=(4, 4), pixel_nm=1)
    assert even == pytest.approx(160)
    film = Film(thickness_nm=80, hole_nm=2000)
    ice, carbon = paths(film, tilt_of(0), shape=(64, 64), pixel_nm=50)
    assert ice[32, 32] == pytest.approx(80)
    assert (ice[32, 60], carbon[32, 60]) == pytest.approx((0, 80))
    inside = {"shape": (64, 64), "pixel_nm": 12.0}
    for degrees, even in ((0, True), (-50, True), (80, False)):
        turned = tilt_of(degrees)
        assert is_even(film, turned, **inside) is even
        ice, carbon = paths(film, turned, **inside)
        assert bool(np.ptp(ice) < 0.01 and not carbon.any()) is even
    lens_of_ice = Film(thickness_nm=60, edge_thickness_nm=100, hole_nm=2000)
    thin, _ = paths(lens_of_ice, tilt_of(0), shape=(64, 64), pixel_nm=25)
    # A parabola: half way to the edge a quarter of the difference.
    assert thin[32, 32 + 20] == pytest.approx(70, abs=0.3)


def test_ice_scatters_as_measured_and_stops_what_the_filter_and_the_aperture_stop() -> (
    None
):
    # Elastic mean free paths at 300 kV, by cross sections of Langmore & Smith (1992):
    # some 600 nm in ice and 300 nm in carbon films.
    ice = ice_of(0.93)
    free = {"voltage_v": 3e5, "aperture_rad": 0.0, "widest_place": 1000.0}
    all_arrive = loss(ice, energy_filter=False, inelastic_nm=310, **free)
    assert all_arrive.per_nm[0] == pytest.approx(0, abs=2e-5)
    filtered = loss(ice, energy_filter=True, inelastic_nm=310, **free)
    assert 1 / filtered.per_nm[0] == pytest.approx(310, rel=0.02)
    cut = loss(
        ice, voltage_v=3e5, aperture_rad=0.008, widest_place=1000.0,
        energy_filter=False, inelastic_nm=310,
    )  # fmt: skip
    assert 500 < 1 / cut.per_nm[0] < 1500
    assert (np.diff(cut.per_nm) > -1e-9).all()  # fine detail is lost most
    assert 1 / (filtered.per_nm[-1] - 1 / 310) == pytest.approx(577, rel=0.1)
    # Electrons that lost energy go on nearly straight: they keep coarse detail.
    assert all_arrive.per_nm[-1] < 0.9 * filtered.per_nm[-1]
    ratio = total_per_nm(CARBON, voltage_v=3e5) / total_per_nm(ice, voltage_v=3e5)
    assert 1.2 < ratio < 2.2


@pytest.mark.parametrize("dqe", [1.0, 0.4])
@pytest.mark.parametrize("dose", [0.6, 37.0])
def test_a_detector_counts_without_bias_and_with_the_noise_of_its_dqe(
    dqe: float, dose: float
) -> None:
    rng = np.random.default_rng(3)
    flat = np.full((400, 400), dose, np.float32)
    counts = counted(flat, detector=Detector(dqe=dqe), rng=rng)
    assert counts.min() >= 0
    assert counts.mean() == pytest.approx(dose, rel=0.02)
    assert counts.var() == pytest.approx(dose / dqe, rel=0.03)


def test_a_detector_blurs_without_loss_and_scales_by_its_gain() -> None:
    detector = Detector(
        gain=5, mtf_a=0.7, mtf_b=0.2, mtf_c=0.1, mtf_alpha=10, mtf_beta=40
    )
    spot = np.zeros((32, 40), np.float32)
    spot[16, 20] = 100
    levels = recorded(spot, detector=detector, transfer_at=mtf(spot.shape, detector))
    assert levels.sum() == pytest.approx(500, rel=1e-4)
    assert 0 < levels[16, 20] < 400
    x = 0.25
    nominal = 0.7 / (1 + 10 * x**2) + 0.2 / (1 + 40 * x**2) + 0.1
    ratio = np.fft.rfft2(levels)[0, 10] / np.fft.rfft2(spot)[0, 10] / 5
    assert abs(ratio) == pytest.approx(nominal, rel=1e-3)


def test_frequencies_are_those_of_the_transform() -> None:
    qy, qx = frequencies((8, 6), 0.5)
    assert qy.ravel().tolist() == np.fft.fftfreq(8, 0.5).astype(np.float32).tolist()
    assert qx.ravel().tolist() == np.fft.rfftfreq(6, 0.5).astype(np.float32).tolist()
