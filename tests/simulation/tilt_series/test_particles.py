"""From atoms and densities to potentials, and the library that keeps them."""

from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest

from em_platform.errors import FormatError
from em_platform.simulation.tilt_series.particles import (
    digest,
    library_potential,
    potential,
)
from em_platform.simulation.tilt_series.plan import ParticleKind


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A lattice of 5 x 5 x 5 carbon atoms, 0.22 nm apart, moved off along x."""
    structure, chain = gemmi.Structure(), gemmi.Chain("A")
    for number, (i, j, k) in enumerate(np.ndindex(5, 5, 5), 1):
        atom = gemmi.Atom()
        atom.name, atom.element = "C", gemmi.Element("C")
        atom.pos, atom.b_iso = gemmi.Position(2.2 * i + 30, 2.2 * j, 2.2 * k), 20
        residue = gemmi.Residue()
        residue.name, residue.seqid = "UNK", gemmi.SeqId(str(number))
        residue.add_atom(atom)
        chain.add_residue(residue)
    structure.add_model(gemmi.Model(1))
    structure[0].add_chain(chain)
    path = tmp_path / "lattice.pdb"
    structure.write_pdb(str(path))
    return path


def test_atoms_become_volts_in_the_middle_of_their_map(model: Path) -> None:
    kind = ParticleKind(name="c", file=str(model), voxel_nm=0.1)
    volume, voxel_nm = potential(kind, pixel_nm=0.5)
    assert voxel_nm == 0.1
    # Peng et al. (1996): f(0) of carbon is 2.51 A; the displaced ice is taken off.
    atoms = 125 * 47.878 * 2.51 / 1000
    displaced = [4.877 * side**3 for side in (0.88, 1.45)]
    total = volume.sum() * voxel_nm**3
    assert atoms - displaced[1] < total < atoms - displaced[0]
    centre = np.argwhere(volume > 0.5 * volume.max()).mean(axis=0)
    assert np.abs(centre - np.array(volume.shape) // 2).max() < 0.6


def test_a_density_is_zero_at_its_border_and_scaled_where_asked(
    particle_file: Path,
) -> None:
    kind = ParticleKind(name="d", file=str(particle_file), peak_v=7, voxel_nm=0.8)
    volume, voxel_nm = potential(kind, pixel_nm=0.5)
    assert (voxel_nm, volume.max(), volume.min()) == pytest.approx((0.8, 7, 0))
    plain, voxel_nm = potential(
        ParticleKind(name="d", file=str(particle_file)), pixel_nm=0.5
    )
    assert (voxel_nm, plain.max()) == pytest.approx((1.0, 5.6), rel=0.1)


def test_the_library_keeps_a_map_by_the_bytes_of_its_file_and_its_options(
    particle_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "library"
    kind = ParticleKind(name="d", file=str(particle_file))
    first, _ = library_potential(kind, pixel_nm=0.5, folder=folder)
    (kept,) = folder.iterdir()
    written = kept.stat().st_mtime_ns
    copy = tmp_path / "copy.mrc"
    copy.write_bytes(particle_file.read_bytes())
    same = ParticleKind(name="other", file=str(copy))
    again, _ = library_potential(same, pixel_nm=0.5, folder=folder)
    assert np.array_equal(first, again)
    assert [each.stat().st_mtime_ns for each in folder.iterdir()] == [written]
    others = (kind.model_copy(update={"peak_v": 3.0}), kind)
    names = {
        digest(each, pixel_nm=size)
        for each, size in zip(others, (0.5, 0.6), strict=True)
    }
    assert len(names | {digest(kind, pixel_nm=0.5)}) == 3


def test_a_map_without_a_voxel_size_is_refused(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "m.mrc", np.ones((4, 4, 4), np.float32)):
        pass
    with pytest.raises(FormatError, match="names no voxel size"):
        potential(ParticleKind(name="m", file=str(tmp_path / "m.mrc")), pixel_nm=1)


def test_what_is_no_map_takes_no_memory(tmp_path: Path) -> None:
    """round3 1.2.11: `/etc/passwd` as a particle took 1.9 GB."""
    text = tmp_path / "passwd"
    text.write_text("root:x:0:0:root:/root:/bin/bash\n" * 40)
    with pytest.raises(FormatError, match=r"particle m: it is no MRC map \(.*mode"):
        potential(ParticleKind(name="m", file=str(text)), pixel_nm=1)
    atoms = tmp_path / "one.pdb"
    atoms.write_text(
        "ATOM      1  CA  ALA A   1       0.000   0.000   0.000  1.00  0.00"
        "           C\n"
    )
    fine = ParticleKind(name="m", file=str(atoms), voxel_nm=1e-4)
    with pytest.raises(FormatError, match=r"its map has .* voxels, at most"):
        potential(fine, pixel_nm=1)
