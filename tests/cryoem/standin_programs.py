"""What programs that stand in for others write: as documented.

`standin_program.sh` runs the script of its own name; `put` copies one of these files.
"""

from pathlib import Path

import mrcfile
import numpy as np

from em_platform.cryoem.methods.particle_star import OpticsGroup, particle_star, star_of

SIDE = 32
STANDIN = Path(__file__).with_name("standin_program.sh")
FILES = {
    "MotionCor2.sh": 'put image.mrc "$(behind -OutMrc "$@")"; cat "$STANDIN/shifts"',
    "relion_motion_correction.sh": (
        'out=$(behind --out_mic "$@"); put image.mrc "$out"\n'
        'put shifts.star "${out%.mrc}.star"'
    ),
    "ctffind.sh": (
        "echo '  Version : 4.1.14'; out=$(sed -n 2p \"$STANDIN/answers\")\n"
        'put image.mrc "$out"; put fit.txt "${out%.mrc}.txt"\n'
        'put rings.txt "${out%.mrc}_avrot.txt"'
    ),
    "AreTomo3.sh": (
        'out=$(behind -OutDir "$@"); echo "Best tilt axis:   1  84.9   0.87"\n'
        'case "$*" in *"-Cmd 1"*) put found.aln "$out/s.aln" ;;\n'
        '*) [ -s "$out/s.aln" ] && put xzy.mrc "$out/s_Vol.mrc" ;; esac'
    ),
    "AreTomo2.sh": (
        'out=$(behind -OutMrc "$@"); echo "Best tilt axis:   1  84.9   0.87"\n'
        'case "$*" in *-AlnFile*) put xzy.mrc "$out" ;;\n'
        '*) put found.aln "${out%/*}/s.aln" ;; esac'
    ),
    "batchruntomo.sh": (
        "grep -q trackingMethod=1 batchDirective.adoc && put found.xf s.xf\n"
        "put found.tlt s.tlt; put residual align.log"
    ),
    "newstack.sh": 'put s.mrc "$(behind -output "$@")"',
    "tilt.sh": 'grep -q "THICKNESS 8" "$STANDIN/answers" && put falling.mrc s.rec',
    "topaz.sh": (
        'out=$(behind -o "$@"); case $1 in\n'
        'denoise3d) put v.mrc "$out/v.denoised.mrc" ;;\n'
        'preprocess) mkdir -p "$out"; put image.mrc "$out/p.mrc" ;;\n'
        'extract) put picks.txt "$out" ;; esac'
    ),
    "cryolo_predict.py.sh": (
        'out=$(behind -o "$@"); mkdir -p "$out/CBOX" "$out/STAR"\n'
        'put found.cbox "$out/CBOX/p.cbox"\n'
        "echo '2 particles in total has been found'"
    ),
    "relion_refine.sh": (
        'out=$(behind --o "$@")_it0$(behind --iter "$@")\n'
        "for end in _classes.mrcs _data.star _model.star; do\n"
        'put "found$end" "$out$end"; done'
    ),
    # As AreTomo3 writes it; the last of five tilts is dark.
    "found.aln": "# AreTomo Alignment\n# RawSize = 32 32 5\n"
    "# DarkFrame =  4  5  40.00\n# AlphaOffset = 1.50\n# Thickness = 20\n"
    + "".join(
        f"{i + 1} 84.5 1.0 {i - 1.5} 2.25 1 1 1 0 {20 * i - 38.5}\n" for i in range(4)
    ),
    "found.xf": "1 0 0 1 1.5 -2.25\n" * 5,
    "found.tlt": "-40\n-20\n0\n20\n40\n",
    "residual": " Residual error mean and sd:     0.512   0.3\n",
    "s.rawtlt": "-40\n-20\n0\n20\n40\n",
    "picks.txt": "image_name\tx_coord\ty_coord\tscore\n"
    "p\t10\t12\t-1.5\np\t20\t8\t3.5\n",
    "found.cbox": "data_cryolo\n\nloop_\n_CoordinateX\n_CoordinateY\n_Width\n_Height\n"
    "_EstWidth\n_EstHeight\n_Confidence\n"
    "6 8 8 8 7 9 0.4\n16 4 8 8 7 9 0.9\n1 1 8 8 7 9 0.1\n",
    "w.h5": "weights",
    "shifts": "...... Frame (  1) shift: 1.5 -2.0\n...... Frame (  2) shift: 4.5 2.0\n",
    "shifts.star": "data_global_shift\n\nloop_\n_rlnMicrographFrameNumber #1\n"
    "_rlnMicrographShiftX #2\n_rlnMicrographShiftY #3\n1 0 0\n2 3 4\n",
    "fit.txt": "# columns\n1.0 15000.5 14500.0 33.0 0.5 0.12 4.25\n",
    "rings.txt": "# c\n0.24 0.26\n1 -2\n0 0\n",
}


VOLUME = np.random.default_rng(4).normal(size=(8, 6, 10)).astype(np.float32)
"""`(z, y, x)`, as stages write it."""


def image(
    path: Path, shape: tuple[int, ...], *, values: np.ndarray | None = None
) -> Path:
    noise = np.random.default_rng(3).normal(100, 5, shape).astype(np.float32)
    with mrcfile.new(path) as file:
        file.set_data(noise if values is None else np.ascontiguousarray(values))
        file.voxel_size = 2.0
    return path


def write_programs(folder: Path) -> None:
    """The programs in `bin`, what they write, and what stages are given."""
    for name, content in FILES.items():
        (folder / name).write_text(content)
    (folder / "bin").mkdir()
    for script in folder.glob("*.sh"):
        program = folder / "bin" / script.stem
        program.symlink_to(STANDIN)
    (folder / "bin/ctffind5").symlink_to(STANDIN)
    (folder / "ctffind5.sh").symlink_to("ctffind.sh")
    image(folder / "image.mrc", (SIDE, SIDE))
    image(folder / "m.mrc", (2, SIDE, SIDE))
    image(folder / "p.mrc", (SIDE, SIDE))
    image(folder / "s.mrc", (5, SIDE, SIDE))
    image(folder / "v.mrc", VOLUME.shape, values=VOLUME)
    # Sections along y; AreTomo's rows rise with z, those of IMOD's tilt fall.
    xzy = VOLUME.transpose(1, 0, 2)
    image(folder / "xzy.mrc", xzy.shape, values=xzy)
    image(folder / "falling.mrc", xzy.shape, values=xzy[:, ::-1])
    classified(folder)


def classified(folder: Path) -> None:
    """Particles, and what RELION finds: 15 of them in class 2."""
    optics = OpticsGroup(
        voltage_kv=300, spherical_mm=2.7, amplitude_contrast=0.1, pixel_size_a=2.0,
        box_px=16,
    )  # fmt: skip
    images = image(folder / "p.mrcs", (20, 16, 16))
    common: dict[str, str | float] = {"MicrographName": "p.mrc"}
    points = [(float(i), float(i)) for i in range(20)]
    star = particle_star(points, stack=images.name, optics=optics, common=common)
    (folder / "particles.star").write_bytes(star)
    rows = [[f"{i + 1:06d}@p.mrcs", "1", "2" if i < 15 else "1"] for i in range(20)]
    columns = ["ImageName", "OpticsGroup", "ClassNumber"]
    found = star_of(columns, rows, optics=optics).replace(
        b"p.mrcs", str(images).encode()
    )
    (folder / "found_data.star").write_bytes(found)
    (folder / "found_model.star").write_text(
        "data_model_classes\n\nloop_\n_rlnReferenceImage\n_rlnEstimatedResolution\n"
        "1@a 999.0\n2@a 12.5\n"
    )
    image(folder / "found_classes.mrcs", (2, 16, 16))
