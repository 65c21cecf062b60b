"""AreTomo 2 and 3: commands, and what they print of an alignment.

Their `.aln` is read by `em_platform.cryoem.alignment_files`.
"""

from dataclasses import dataclass
from pathlib import Path

from em_platform.cryoem.programs.arguments import Fields, flagged

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


def aretomo3_command(fields: Fields, *, step: int = 1) -> list[str]:
    """The command of AreTomo3, from alignment to tomogram.

    Step 2 goes from the `.aln` beside the stack to the tomogram.
    """
    stack = str(fields["stack_file"])
    words = ["AreTomo3", "-Cmd", str(step), "-InPrefix", stack]
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


def angles_file(angles: list[float], *, order: list[int], offset: float = 0.0) -> str:
    """The content of AreTomo's `_TLT.txt`: angle and place in the acquisition."""
    pairs = zip(angles, order, strict=True)
    return "".join(f"{angle + offset}  {place}\n" for angle, place in pairs)
