"""Small valid files of cryo-EM and of simulated tilt series, as programs write them."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (32, 48)
_EVENTS = 65001
"""EER's compression in TIFF."""

_STAR = """
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
_rlnImagePixelSize #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
_rlnImageSize #8
_rlnImageDimensionality #9
opticsGroup1 1 1.0 1.0 300 2.7 0.1 64 2

data_particles

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
_rlnImageName #3
_rlnOpticsGroup #4
_rlnDefocusU #5
10.5 20 000001@stack.mrcs 1 12000
30 40.25 000002@stack.mrcs 1 12000
"""
_SHIFTS = """
data_general
_rlnImageSizeX 48

data_global_shift

loop_
_rlnMicrographFrameNumber #1
_rlnMicrographShiftX #2
_rlnMicrographShiftY #3
1 0.0 0.0
2 1.5 -0.25
"""
_CBOX = """
data_global
_cbox_format_version 1.0

data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_EstWidth #7
_EstHeight #8
_Confidence #9
_NumBoxes #10
_Angle #11
10 20 30 64 64 1 60 61 0.7 5 <NA>
"""
_PIPELINE = """
data_pipeline_general
_rlnPipeLineJobCounter 3

data_pipeline_processes

loop_
_rlnPipeLineProcessName #1
_rlnPipeLineProcessAlias #2
_rlnPipeLineProcessTypeLabel #3
_rlnPipeLineProcessStatusLabel #4
Import/job001/ None relion.import.movies Succeeded
MotionCorr/job002/ None relion.motioncorr.own Succeeded

data_pipeline_nodes

loop_
_rlnPipeLineNodeName #1
_rlnPipeLineNodeTypeLabel #2
Import/job001/movies.star MicrographMoviesData.star.relion

data_pipeline_input_edges

loop_
_rlnPipeLineEdgeFromNode #1
_rlnPipeLineEdgeProcess #2
Import/job001/movies.star MotionCorr/job002/

data_pipeline_output_edges

loop_
_rlnPipeLineEdgeProcess #1
_rlnPipeLineEdgeToNode #2
Import/job001/ Import/job001/movies.star
"""
_ALN = """# AreTomo Alignment / Priims bprmMn
# RawSize = 48 32 3
# Thickness = 120
# SEC  ROT  GMAG  TX  TY  SMEAN  SFIT  SCALE  BASE  TILT
    0  85.1  1.0  -1.100   2.200  1.0  1.0  1.0  0.0  -3.0
    1  85.1  1.0   0.000   0.000  1.0  1.0  1.0  0.0   0.0
    2  85.1  1.0   1.300  -0.400  1.0  1.0  1.0  0.0   3.0
"""
_CTF = """# Output from CTFFind version 4.1.14, run on 2026-11-23 00:00:00
# Input file: a.mrc ; Number of micrographs: 1
# Pixel size: 1.000 Angstroms ; acceleration voltage: 300.0 keV
# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]
1.000000 12345.678 12001.234 45.123 0.000000 0.123456 3.456789
"""
_PRINTED = """
Estimated defocus values        : 12345.68 , 12001.23 Angstroms
Estimated azimuth of astigmatism: 45.12 degrees
Score                           : 0.12346
Thon rings with good fit up to  : 3.5 Angstroms
Rot center Z    10    20    -3.5
Tilt offset     -1.5, CC: 0.5
Best tilt axis:   85.1, Score:   0.61
...... Frame (  1) shift:   -1.250      0.500
...... Frame (  2) shift:    0.000      0.000
15 particles in total has been found
"""
_SIM = Path(__file__).parent.parent / "tests/data/sim.txt"
_SMALLER = {
    "det_pix_x = 2000": "det_pix_x = 48",
    "det_pix_y = 2000": "det_pix_y = 32",
    "ntilts = 37": "ntilts = 3",
    "theta_start = -54": "theta_start = -3",
    "thickness_edge = 200": "thickness_edge = 100",
    "thickness_center = 150": "thickness_center = 80",
}
"""So that a series of it takes a moment."""
_ETS = """tem_simulator_executable: TEM-simulator
model: bead.mrc
root: test
config: sim.txt
coord: coord.txt
coord_error:
  mu: 0
  sigma: 50
num_stacks: 1
name: Bead
num_cores: 1
apix: 0.283
defocus_values: [1]
bead_map: bead.mrc
bead_occupancy: 0.00025
assembler: basic
custom_configs:
  orientations_source: "gauss(0, 1)"
  use_common_model: true
"""
_MDOC_HEAD = ("PixelSpacing = 4", "ImageFile = a.mrc", "[T = SerialEM]", "")


def write_cryoem(folder: Path) -> None:
    """One of each file, by names that programs give them."""
    from em_platform.standins.image_files import write_mrc

    draw = np.random.default_rng(8)
    stack = draw.integers(20, 230, (3, *SHAPE))
    write_mrc(folder / "a.mrc", stack.astype("i2"), voxel_nm=0.4)
    _write_eer(folder / "movie.eer", (draw.random((4, *SHAPE)) < 0.02).astype("u1"))
    gain = draw.uniform(0.8, 1.2, (1, *SHAPE)).astype("f4")
    write_mrc(folder / "gain.mrc", gain, voxel_nm=0.4)
    # Corner and size, as MotionCor2 has them.
    (folder / "defects.txt").write_text("3 4 2 5\n10 11 1 1\n")
    (folder / "a.rawtlt").write_text("-3.0\n0.0\n3.0\n")
    lines = [*_MDOC_HEAD]
    for number in range(3):
        lines += [f"[ZValue = {number}]", f"TiltAngle = {3 * number - 3}",
                  "ExposureDose = 3.1", "SubFramePath = C:\\a\\b.eer",
                  f"DateTime = 23-Nov-26  10:0{number}:00", ""]  # fmt: skip
    (folder / "a.mrc.mdoc").write_text("\n".join(lines))
    (folder / "a.aln").write_text(_ALN)
    (folder / "a.xf").write_text("1 0 0 1 -1.5 2\n" * 3)
    (folder / "a.tlt").write_text("-3.0\n0.0\n3.0\n")
    (folder / "particles.star").write_text(_STAR)
    (folder / "shifts.star").write_text(_SHIFTS)
    (folder / "picks.cbox").write_text(_CBOX)
    (folder / "default_pipeline.star").write_text(_PIPELINE)
    (folder / "ctf.txt").write_text(_CTF)
    (folder / "printed.txt").write_text(_PRINTED)
    sim = _SIM.read_text()
    for stated, smaller in _SMALLER.items():
        sim = sim.replace(stated, smaller)
    (folder / "sim.txt").write_text(sim)
    (folder / "coord.txt").write_text("1 6\n100 -70.7 0.5 0 0 0\n")
    (folder / "configs.yaml").write_text(_ETS)
    from em_platform.cryoem.recipes.read import read_recipe

    recipe = read_recipe("em-tomo-align")
    (folder / "recipe.json").write_text(
        json.dumps({str(k): v for k, v in recipe.items()})
    )


def _write_eer(path: Path, frames: Any) -> None:
    """A BigTIFF as the camera writes it; tifffile only reads these."""
    about, count = b"<metadata></metadata>", len(frames)
    body = b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + len(about)) + about
    for number, frame in enumerate(frames):
        height, width = frame.shape
        events = _codes(frame)
        tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8),
                (259, 3, 1, _EVENTS), (262, 3, 1, 1), (273, 4, 1, 0), (277, 3, 1, 1),
                (278, 4, 1, height), (279, 4, 1, len(events))]  # fmt: skip
        tags += [(_EVENTS, 7, len(about), 16)] if number == 0 else []
        start = len(body) + 8 + 20 * len(tags) + 8
        tags[5] = (273, 4, 1, start)
        following = start + len(events) if number < count - 1 else 0
        body += struct.pack("<Q", len(tags))
        body += b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
        body += struct.pack("<Q", following) + events
    path.write_bytes(body)


def _codes(frame: Any) -> bytes:
    """7 bits of each gap between electrons, the lowest first, and 4 of where."""
    ends = [*np.flatnonzero(frame).tolist(), frame.size]
    gaps = np.diff([-1, *ends]) - 1
    bits = "".join(
        "1" * 7 * (gap // 127) + f"{gap % 127:07b}"[::-1] + "0000" for gap in gaps
    )[:-4]
    bits += "0" * (-len(bits) % 16)
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
