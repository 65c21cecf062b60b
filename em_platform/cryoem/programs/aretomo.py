"""AreTomo 2 and 3: commands, and the alignment from what they print and write."""

from dataclasses import dataclass
from pathlib import Path

from em_platform.cryoem.programs.words import Fields, flagged
from em_platform.errors import FormatError

_ARETOMO3 = {
    "vol_z": "-VolZ",
    "extra_vol": "-ExtZ",
    "ctf_cor": "-CorrCTF",
    "flip_int": "-FlipInt",
    "flip_vol": "-FlipVol",
    "wbp": "-Wbp",
    # No `kv`: AreTomo3 would begin to correct the CTF.
    "cs": "-Cs",
    "amplitude_contrast": "-AmpContrast",
    "dose_per_frame": "-FmDose",
    "align_z": "-AlignZ",
    "out_imod": "-OutImod",
    "out_imod_xf": "-OutXF",
    "interpolation_correction": "-IntpCor",
    "dark_tol": "-DarkTol",
}
_ARETOMO2 = {
    "vol_z": "-VolZ",
    "out_bin": "-OutBin",
    "flip_int": "-FlipInt",
    "flip_vol": "-FlipVol",
    "wbp": "-Wbp",
    "patch": "-Patch",
    "kv": "-Kv",
    "align_file": "-AlnFile",
    "align_z": "-AlignZ",
    "out_imod": "-OutImod",
    "out_imod_xf": "-OutXF",
    "dark_tol": "-DarkTol",
}
# In a line of `.aln`, https://github.com/czimaginginstitute/AreTomo3.
_ROTATION, _MAGNIFICATION, _X, _Y, _TILT = 1, 2, 3, 4, 9


def aretomo3_command(fields: Fields) -> list[str]:
    """The command of AreTomo3, from alignment to tomogram."""
    stack = str(fields["stack_file"])
    words = ["AreTomo3", "-Cmd", "1", "-InPrefix", stack]
    words += ["-OutDir", str(Path(stack).parent), *_tilt_words(fields)]
    if fields.get("sart_iterations") and fields.get("sart_projections"):
        words += ["-Sart", str(fields["sart_iterations"])]
        words.append(str(fields["sart_projections"]))
    if fields.get("patch"):
        words += ["-AtPatch", str(fields["patch"]), str(fields["patch"])]
    words += ["-AtBin", str(fields["out_bin"])]
    if fields.get("second_bin"):
        words.append(str(fields["second_bin"]))
    return [*words, *flagged(fields, {"pixel_size": "-PixSize"} | _ARETOMO3)]


def aretomo2_command(fields: Fields, *, output: Path, angles: Path) -> list[str]:
    """The command of AreTomo2, from alignment to the tomogram `output`."""
    words = ["AreTomo2", "-InMrc", str(fields["stack_file"]), "-OutMrc", str(output)]
    words += ["-AngFile", str(angles), *_tilt_words(fields)]
    if fields.get("frame_count") and fields.get("dose_per_frame"):
        dose = fields["frame_count"] * fields["dose_per_frame"]
        words += ["-ImgDose", str(dose)]
    return [*words, *flagged(fields, {"pixel_size": "-PixSize"} | _ARETOMO2)]


def _tilt_words(fields: Fields) -> list[str]:
    words = ["-TiltCor", str(fields["tilt_cor"])]
    if fields.get("manual_tilt_offset") is not None:
        words.append(str(fields["manual_tilt_offset"]))
    words += ["-TiltAxis", str(fields["tilt_axis"]), str(fields["refine_flag"])]
    return words


@dataclass(frozen=True, kw_only=True)
class AretomoOutput:
    """What AreTomo prints of an alignment; None where it says nothing."""

    rotation_centre_z: float | None
    tilt_offset_deg: float | None
    alignment_quality: float | None


@dataclass(frozen=True, kw_only=True)
class AlignedTilt:
    """A tilt in the order of the file; shifts in pixels."""

    rotation_deg: float
    magnification: float
    dx: float
    dy: float
    tilt_deg: float


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The content of an `.aln` file."""

    thickness_px: int | None
    tilts: tuple[AlignedTilt, ...]


def output_of(text: str) -> AretomoOutput:
    """Centre, offset and quality, from what AreTomo prints; the last of each counts."""

    def last(begin: str, place: int) -> float | None:
        found = None
        for line in text.splitlines():
            words = line.split()
            if line.startswith(begin) and len(words) > place:
                try:
                    found = float(words[place].strip(","))
                except ValueError:
                    continue  # another sentence that begins so
        return found

    return AretomoOutput(
        rotation_centre_z=last("Rot center Z", 5),
        tilt_offset_deg=last("Tilt offset", 2),
        alignment_quality=last("Best tilt axis", 5),
    )


def alignment_of(path: Path) -> Alignment:
    """The alignment in an `.aln` file.

    Raises
    ------
    FormatError
        It has none.
    """
    thickness, tilts = None, []
    try:
        for line in path.read_text().splitlines():
            words = line.split()
            if "Thickness" in line:
                thickness = int(words[-1])
            if not words or line.lstrip().startswith("#"):
                continue
            if len(words) <= _TILT:
                continue  # the second table, of local shifts, has fewer columns
            tilts.append(
                AlignedTilt(
                    rotation_deg=float(words[_ROTATION]),
                    magnification=float(words[_MAGNIFICATION]),
                    dx=float(words[_X]),
                    dy=float(words[_Y]),
                    tilt_deg=float(words[_TILT]),
                )
            )
    except (OSError, ValueError) as error:
        raise FormatError(
            f"AreTomo: {path} cannot be read ({error}), lines of ten numbers were "
            "expected; run the alignment again"
        ) from error
    if not tilts:
        raise FormatError(
            f"AreTomo: {path} has no tilts, a line for each was expected; run the "
            "alignment again"
        )
    return Alignment(thickness_px=thickness, tilts=tuple(tilts))


def angles_file(angles: list[float], *, order: list[int], offset: float = 0.0) -> str:
    """The content of AreTomo's `_TLT.txt`: angle and place in the acquisition."""
    pairs = zip(angles, order, strict=True)
    return "".join(f"{angle + offset}  {place}\n" for angle, place in pairs)
