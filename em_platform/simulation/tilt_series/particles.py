"""From a model of atoms, or a density, to the potential that a beam meets in ice."""

import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from em_platform.cryoem.movies import is_packed, open_packed
from em_platform.errors import ConfigError, FormatError
from em_platform.formats import open_mrc, open_source
from em_platform.simulation.tilt_series.plan import ParticleKind
from em_platform.storage.atomic import write_bytes

ICE_V = 4.877
"""Mean inner potential of vitreous ice, as TEM-simulator 1.3 has it (4.5 to 4.9)."""

_VOLT_A2 = 47.87801
"""h^2 / (2 pi m e): scattering lengths in A, spread over A^3, become volts."""

_FINE_NM = 0.12  # atoms are drawn this fine at most, so that their peaks are resolved
_BLUR = 40.0  # A^2 a square A of voxel: 8 pi^2 (0.7 voxel)^2, the least that is sampled
_MARGIN_NM = 0.8  # round the atoms: further out their potential is below 1e-3 V

_MOST_VOXELS = 1 << 29  # 2 GiB of floats

_ATOMS = {".pdb", ".ent", ".cif", ".mmcif"}


def potential(
    kind: ParticleKind, *, pixel_nm: float
) -> tuple[NDArray[np.float32], float]:
    """The potential above that of ice, V, `(z, y, x)`, and the size of its voxels, nm.

    Parameters
    ----------
    pixel_nm
        Of the images: atoms are drawn twice as fine where the kind names no voxel.

    Raises
    ------
    ConfigError
        There is no such file.
    FormatError
        The file cannot be read, holds no atoms or no voxel size.
    """
    path = existing_file(kind)
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in _ATOMS:
        voxel_nm = kind.voxel_nm or pixel_nm / 2
        return _from_atoms(kind, path, voxel_nm), voxel_nm
    return _from_map(kind, path)


def file_digest(kind: ParticleKind) -> str:
    """SHA-256 of the bytes of a particle's file.

    Raises
    ------
    ConfigError
        There is no such file.
    """
    with existing_file(kind).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(kind: ParticleKind, *, pixel_nm: float) -> str:
    """SHA-256 of what decides a particle's map: the file's bytes and the settings."""
    settings = kind.model_dump_json(exclude={"file", "name"})
    made_from = (
        f"{file_digest(kind)} {settings} {pixel_nm!r} {ICE_V} {_FINE_NM} {_BLUR}"
    )
    return hashlib.sha256(made_from.encode()).hexdigest()


def library_potential(
    kind: ParticleKind, *, pixel_nm: float, folder: Path
) -> tuple[NDArray[np.float32], float]:
    """`potential`, kept in `folder` under its digest, so it is computed once."""
    kept = folder / f"{digest(kind, pixel_nm=pixel_nm)}.npz"
    if kept.is_file():
        with np.load(kept) as archive:
            return archive["potential_v"], float(archive["voxel_nm"])
    volume, voxel_nm = potential(kind, pixel_nm=pixel_nm)
    buffer = io.BytesIO()
    np.savez(buffer, potential_v=volume, voxel_nm=voxel_nm)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(kept, buffer.getvalue())
    return volume, voxel_nm


def existing_file(kind: ParticleKind) -> Path:
    """The file of a particle.

    Raises
    ------
    ConfigError
        There is no such file.
    """
    path = Path(kind.file).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"particle {kind.name}: found no file {path}, a PDB, mmCIF or MRC file was "
            "expected; correct its path"
        )
    return path


def _from_atoms(kind: ParticleKind, path: Path, voxel_nm: float) -> NDArray[np.float32]:
    structure = _read_atoms(kind, path)
    model = structure[0]
    factor = max(1, int(np.ceil(voxel_nm / _FINE_NM)))
    fine_a = 10 * voxel_nm / factor
    box = structure.calculate_box(margin=10 * _MARGIN_NM)
    sides = box.get_size().tolist()
    voxels = [int(np.ceil(side / fine_a / factor)) * factor for side in sides]
    _check_voxels(kind, voxels)
    # The middle of the box of atoms becomes the middle of the map's voxel n // 2.
    # gemmi samples at the corner of a fine voxel, not at its middle.
    centre = [((n // factor // 2 + 0.5) * factor - 0.5) * fine_a for n in voxels]
    shift = gemmi.Vec3(*centre) - gemmi.Vec3(
        *((box.minimum + box.maximum) / 2).tolist()
    )
    model.transform_pos_and_adp(gemmi.Transform(gemmi.Mat33(), shift))
    density = gemmi.DensityCalculatorE()
    _set_grid(density.grid, voxels, fine_a)
    density.blur = _BLUR * fine_a**2
    density.add_model_density_to_grid(model)
    solvent = gemmi.FloatGrid()
    _set_grid(solvent, voxels, fine_a)
    masker = gemmi.SolventMasker(gemmi.AtomicRadiiSet.Cctbx)
    masker.put_mask_on_float_grid(solvent, model)
    displaced = ICE_V * (1 - np.asarray(solvent.array))
    volume = _VOLT_A2 * np.asarray(density.grid.array) - displaced
    z, y, x = (n // factor for n in reversed(voxels))
    binned = volume.transpose(2, 1, 0).reshape(z, factor, y, factor, x, factor)
    return np.ascontiguousarray(binned.mean(axis=(1, 3, 5)), np.float32)


def _check_voxels(kind: ParticleKind, shape: Sequence[int]) -> None:
    if math.prod(shape) > _MOST_VOXELS:
        raise FormatError(
            f"particle {kind.name}: its map has {' x '.join(map(str, shape))} voxels, "
            f"at most {_MOST_VOXELS} were expected; raise voxel_nm, or cut the map"
        )


def _set_grid(grid: gemmi.FloatGrid, voxels: list[int], voxel_a: float) -> None:
    grid.set_size(*voxels)
    a, b, c = (n * voxel_a for n in voxels)
    grid.set_unit_cell(gemmi.UnitCell(a, b, c, 90, 90, 90))
    grid.spacegroup = gemmi.SpaceGroup("P 1")


def _read_atoms(kind: ParticleKind, path: Path) -> gemmi.Structure:
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError) as error:
        raise FormatError(
            f"particle {kind.name}: {path} cannot be read as a model of atoms "
            f"({error}); give a PDB or mmCIF file"
        ) from error
    if kind.assembly:
        names = [assembly.name for assembly in structure.assemblies]
        if kind.assembly not in names:
            raise FormatError(
                f"particle {kind.name}: {path} has the assemblies "
                f"{', '.join(names) or 'none'}, {kind.assembly} was expected; correct "
                "`assembly`"
            )
        structure.transform_to_assembly(
            kind.assembly, gemmi.HowToNameCopiedChain.AddNumber
        )
    structure.remove_waters()
    structure.remove_alternative_conformations()
    if not len(structure) or not structure[0].count_atom_sites():
        raise FormatError(
            f"particle {kind.name}: found no atoms in {path}, a model was expected; "
            "give "
            "a PDB or mmCIF file"
        )
    return structure


def _from_map(kind: ParticleKind, path: Path) -> tuple[NDArray[np.float32], float]:
    try:
        # Its header promises no more than the file has.
        found = (
            open_packed(path) if is_packed(path) else open_mrc(open_source(str(path)))
        )
    except FormatError as error:
        raise FormatError(
            f"particle {kind.name}: it is no MRC map ({error}); give an MRC, PDB or "
            "mmCIF file"
        ) from error
    _check_voxels(kind, found.info.shape)
    volume = np.asarray(found.read((slice(None),) * 3), np.float32)
    if not np.isfinite(volume).all():
        raise FormatError(
            f"particle {kind.name}: found an array of shape {volume.shape} in "
            f"{path}, a "
            "volume of finite numbers was expected; give a map"
        )
    stated = found.info.voxel_size_nm
    voxel_nm = kind.voxel_nm or (stated[2] if stated else 0.0)
    if not voxel_nm:
        raise FormatError(
            f"particle {kind.name}: the header of {path} names no voxel size; set "
            "`voxel_nm`"
        )
    volume = volume - _border_mean(volume)
    if kind.peak_v:
        tiny = float(np.finfo(np.float32).tiny)
        volume *= kind.peak_v / max(float(volume.max()), tiny)
    return np.maximum(volume, 0), voxel_nm


def _border_mean(volume: NDArray[np.float32]) -> float:
    """The mean of the map's faces, which lie in solvent."""
    faces = [volume[0], volume[-1], volume[:, 0], volume[:, -1]]
    faces += [volume[:, :, 0], volume[:, :, -1]]
    return float(np.mean([face.mean() for face in faces]))
