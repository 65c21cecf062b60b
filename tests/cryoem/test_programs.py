"""Commands are word by word those of cryoem-services, and outputs are read."""

from pathlib import Path
from typing import Any

import pytest

from em_platform.cryoem.alignment_files import read_alignment
from em_platform.cryoem.programs import aretomo, ctffind, imod, motion, others
from em_platform.errors import FormatError

MOTION: dict[str, Any] = {
    "movie": "m.tiff",
    "mrc_out": "MotionCorr/job002/m.mrc",
    "pixel_size": 2.0,
    "dose_per_frame": 1.0,
    "patch_sizes": {"x": 5, "y": 5},
    "gpu": 0,
    "threads": 4,
    "fm_ref": 0,
    "voltage": 300.0,
    "init_dose": 8.0,
    "motion_corr_binning": 1.0,
    "eer_sampling": 1,
}
TOMO: dict[str, Any] = {
    "stack_file": "T/s.mrc",
    "pixel_size": 1.5,
    "vol_z": 1800,
    "extra_vol": 400,
    "out_bin": 4,
    "tilt_axis": 85.0,
    "tilt_cor": 1,
    "flip_vol": 0,
    "refine_flag": 1,
    "out_imod": 1,
    "dose_per_frame": 0.5,
    "frame_count": 8,
    "kv": 300,
}
CTF: dict[str, Any] = {
    "input_image": "in.mrc",
    "output_image": "out.ctf",
    "pixel_size": 0.885,
    "voltage": 300.0,
    "spher_aber": 2.7,
    "ampl_contrast": 0.1,
    "ampl_spectrum": 512,
    "min_res": 30.0,
    "max_res": 5.0,
    "min_defocus": 2000.0,
    "max_defocus": 90000.0,
    "defocus_step": 100.0,
    **dict.fromkeys(("astigmatism_known", "slow_search", "astigmatism_restrain"), "no"),
    "additional_phase_shift": "no",
    "expert_options": "no",
    "ctffind_version": 4,
    "determine_tilt": "no",
    "determine_thickness": "no",
    **dict.fromkeys(("brute_force_1d", "refinement_2d"), "yes"),
    "node_low_res": 30.0,
    "node_high_res": 3.0,
    **dict.fromkeys(("node_rounded_square", "node_downweight"), "no"),
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {},
            "relion_motion_correction --use_own --in_movie m.tiff --out_mic "
            "MotionCorr/job002/m.mrc --angpix 2.0 --dose_per_frame 1.0 --patch_x 5 "
            "--patch_y 5 --j 4 --voltage 300 --preexposure 8.0 --bin_factor 1.0 "
            "--eer_upsampling 1 --dose_weighting --i dummy",
        ),
        (
            {
                "patch_sizes": (7, 3),
                "gain_ref": Path("g.mrc"),
                "rot_gain": 1,
                "flip_gain": 2,
                "bft": {"global_motion": 500, "local_motion": 150},
                "defect_file": "d.txt",
                "motion_corr_binning": None,
                "init_dose": None,
                "voltage": None,
                "eer_sampling": None,
            },
            "relion_motion_correction --use_own --in_movie m.tiff --out_mic "
            "MotionCorr/job002/m.mrc --angpix 2.0 --dose_per_frame 1.0 --patch_x 7 "
            "--patch_y 3 --j 4 --gainref g.mrc --gain_rot 1 --gain_flip 2 --bfactor "
            "150 --defect_file d.txt --eer_grouping 20 --dose_weighting --i dummy",
        ),
    ],
)
def test_the_command_of_relion_for_one_movie(
    change: dict[str, Any], words: str
) -> None:
    grouping = 20 if change else 0
    command = motion.relion_command(MOTION | change, eer_grouping=grouping)
    assert " ".join(command) == words


def test_the_command_of_debians_relion() -> None:
    command = motion.relion_batch_command(
        MOTION | {"init_dose": None}, star=Path("m.star"), folder="MotionCorr/job002/"
    )
    assert " ".join(command) == (
        "relion_run_motioncorr --i m.star --o MotionCorr/job002/ --use_own --j 4 "
        "--bin_factor 1.0 --bfactor 150 --dose_per_frame 1.0 --preexposure 0 --patch_x "
        "5 --patch_y 5 --dose_weighting"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {},
            "MotionCor2|-InTiff|m.tiff|-OutMrc|MotionCorr/job002/m.mrc|-PixSize|2.0|"
            "-FmDose|1.0|-Patch|5 5|-Gpu|0|-FmRef|0|-Kv|300|-InitDose|8.0|-FtBin|1.0|"
            "-EerSampling|1",
        ),
        (
            {
                "movie": "m.eer",
                "fm_int_file": "f.txt",
                "gain_ref": "g.gain",
                "sum_range": {"min": 3, "max": 27},
                "throw": 1,
                "mag": {"major": 1.01, "minor": 1.0, "angle": 30},
                "bft": {"global_motion": 500, "local_motion": 150},
                "in_fm_motion": 1,
                "split_sum": 1,
                "init_dose": None,
            },
            "MotionCor2|-InEer|m.eer|-OutMrc|MotionCorr/job002/m.mrc|-PixSize|2.0|"
            "-FmDose|1.0|-Patch|5 5|-Gpu|0|-Gain|g.gain|-SumRange|3 27|-Throw|1|"
            "-FmRef|0|-Kv|300|-FmIntFile|f.txt|-Mag|1.01 1.0 30|-FtBin|1.0|"
            "-EerSampling|1|-Bft|500 150|-InFmMotion|1|-SplitSum|1",
        ),
    ],
)
def test_the_command_of_motioncor2(change: dict[str, Any], words: str) -> None:
    assert "|".join(motion.motioncor2_command(MOTION | change)) == words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {},
            "AreTomo3 -Cmd 1 -InPrefix T/s.mrc -OutDir T -TiltCor 1 -TiltAxis 85.0 1 "
            "-AtBin 4 -PixSize 1.5 -VolZ 1800 -ExtZ 400 -FlipVol 0 -FmDose 0.5 "
            "-OutImod 1",
        ),
        (
            {
                "manual_tilt_offset": -2.5,
                "sart_iterations": 15,
                "sart_projections": 5,
                "patch": 4,
                "second_bin": 8,
                "ctf_cor": 1,
                "wbp": 1,
                "cs": 2.7,
                "amplitude_contrast": 0.1,
                "interpolation_correction": 1,
                "dark_tol": 0.7,
            },
            "AreTomo3 -Cmd 1 -InPrefix T/s.mrc -OutDir T -TiltCor 1 -2.5 -TiltAxis "
            "85.0 1 -Sart 15 5 -AtPatch 4 4 -AtBin 4 8 -PixSize 1.5 -VolZ 1800 -ExtZ "
            "400 -CorrCTF 1 -FlipVol 0 -Wbp 1 -Cs 2.7 -AmpContrast 0.1 -FmDose 0.5 "
            "-OutImod 1 -IntpCor 1 -DarkTol 0.7",
        ),
    ],
)
def test_the_command_of_aretomo3(change: dict[str, Any], words: str) -> None:
    assert " ".join(aretomo.aretomo3_command(TOMO | change)) == words


def test_the_command_of_aretomo2() -> None:
    fields = TOMO | {"patch": 4, "align_file": "a.aln", "manual_tilt_offset": 3.0}
    command = aretomo.aretomo2_command(
        fields, output=Path("T/s_Vol.mrc"), angles=Path("T/s_TLT.txt")
    )
    assert " ".join(command) == (
        "AreTomo2 -InMrc T/s.mrc -OutMrc T/s_Vol.mrc -AngFile T/s_TLT.txt -TiltCor 1 "
        "3.0 -TiltAxis 85.0 1 -ImgDose 4.0 -PixSize 1.5 -VolZ 1800 -OutBin 4 "
        "-FlipVol 0 -Patch 4 -Kv 300 -AlnFile a.aln -OutImod 1"
    )


FIRST = (
    "in.mrc out.ctf 0.885 300.0 2.7 0.1 512 30.0 5.0 2000.0 90000.0 100.0 no no no no"
)


@pytest.mark.parametrize(
    ("change", "rest"),
    [
        ({}, "no"),
        ({"ctffind_version": 5}, "no no no"),
        (
            {"ctffind_version": 5, "determine_thickness": "yes"},
            "no yes yes yes 30.0 3.0 no no no",
        ),
    ],
)
def test_the_answers_to_ctffind(change: dict[str, Any], rest: str) -> None:
    answers = ctffind.ctffind_answers(CTF | change)
    assert answers.split("\n") == f"{FIRST} {rest}".split()


def test_the_commands_of_the_others() -> None:
    assert imod.tif2mrc_command(Path("a.tif"), Path("a.mrc")) == [
        *("tif2mrc", "a.tif", "a.mrc")
    ]
    assert " ".join(imod.batchruntomo_command(Path("s.adoc"), cpus=4)) == (
        "batchruntomo -directive s.adoc -cpus 4 -bypass"
    )
    denoise = {"volume": "v.mrc", "output_dir": "D", "suffix": ".denoised"}
    more = {"model": "unet-3d", "patch_size": 96, "device": -2}
    assert " ".join(others.topaz_denoise_command(denoise | more)) == (
        "topaz denoise3d v.mrc -o D --suffix .denoised -m unet-3d -s 96 -d -2"
    )
    files = {"input_path": "m.mrc", "output_path": "p.txt"}
    assert " ".join(others.topaz_extract_command(files, radius_px=9)) == (
        "topaz extract -m resnet16 -r 9 -s 8 -t -6 --per-micrograph -o p.txt m.mrc"
    )
    membrain = {
        "tomogram": "D/v.mrc",
        "pretrained_checkpoint": "m.ckpt",
        "pixel_size": 10.0,
        "window_size": 160,
        "segmentation_threshold": 0.0,
    }
    assert " ".join(others.membrain_command(membrain)) == (
        "membrain segment --out-folder D --tomogram-path D/v.mrc --ckpt-path m.ckpt "
        "--in-pixel-size 10.0 --sliding-window-size 160 --segmentation-threshold 0.0 "
        "--rescale-patches --no-test-time-augmentation --no-store-probabilities "
        "--no-store-connected-components"
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("spa", "--otf"),
        ("tomography", "--tomogram -tsr -1 -tmem 0 -tmin 5"),
    ],
)
def test_the_command_of_cryolo(kind: str, words: str) -> None:
    fields = {
        "experiment_type": kind,
        "tomo_tracing_search_range": -1,
        "tomo_tracing_missing_frames": 0,
        "tomo_tracing_min_frames": 5,
        "cryolo_model_weights": "w.h5",
        "cryolo_threshold": 0.3,
        "min_distance": 0,
        "normalization_margin": 0,
        "batch_size": 3,
        "cpu_count": 1,
    }
    command = others.cryolo_command(fields, image=Path("m.mrc"), folder=Path("J"))
    assert " ".join(command) == (
        f"cryolo_predict.py -i m.mrc --conf J/cryolo_config.json -o J {words} "
        "--weights w.h5 --threshold 0.3 --distance 0 --norm_margin 0 "
        "--prediction_batch_size 3 --num_cpu 1"
    )


OLD = "...... Frame (  1) shift:    1.50   -2.00\n...... Frame (  2) shift: 4.5 2\n"
NEW = "Full-frame\n frame  x Shift y Shift\n 1 1.50 -2.00\n 2 4.5 2\n\nrest 7 7\n"


@pytest.mark.parametrize("output", [OLD, NEW])
def test_shifts_are_read_from_motioncor2(output: str) -> None:
    assert motion.shifts_of_motioncor2(output) == [(1.5, -2.0), (4.5, 2.0)]


def test_shifts_are_read_from_relion(tmp_path: Path) -> None:
    star = tmp_path / "m.star"
    star.write_text(
        "data_general\n\n_rlnImageSizeX 4096\n\ndata_global_shift\n\nloop_\n"
        "_rlnMicrographFrameNumber #1\n_rlnMicrographShiftX #2\n"
        "_rlnMicrographShiftY #3\n1 0 0\n2 3 4\n3 3 5\n4 3 7\n"
    )
    shifts = motion.shifts_of_relion(star)
    assert shifts == [(0.0, 0.0), (3.0, 4.0), (3.0, 5.0), (3.0, 7.0)]
    star.write_text("data_general\n_rlnImageSizeX 1\n")
    with pytest.raises(FormatError, match="no readable table global_shift"):
        motion.shifts_of_relion(star)


CTFFIND_OUTPUT = """\
Estimated defocus values        : 10864.56 , 10572.10 Angstroms
Estimated azimuth of astigmatism: 21.78 degrees
Score                           : 0.12878
Thon rings with good fit up to  : 4.50 Angstroms
"""


def test_a_fit_is_read_from_ctffind(tmp_path: Path) -> None:
    fit = ctffind.fit_of_output(CTFFIND_OUTPUT)
    assert (fit.defocus_u, fit.defocus_v, fit.azimuth) == (10864.56, 10572.1, 21.78)
    assert (fit.score, fit.resolution) == (0.12878, 4.5)
    with pytest.raises(FormatError, match="no azimuth, resolution, score was found"):
        ctffind.fit_of_output(CTFFIND_OUTPUT.splitlines()[0])
    rings = tmp_path / "a_avrot.txt"
    rings.write_text("# c\n" * 5 + "0.24 0.26 0.27 0.29\n1 -2 3 4\n0 0 0 0\n")
    assert ctffind.ice_ring_density(rings) == 5.0


def test_the_tables_of_ctffind_are_read(shared_data: Path) -> None:
    folder = shared_data / "cryoem"
    (one,) = ctffind.fits_of_table(folder / "aspire/ctffind4/diagnostic_output.txt")
    assert (one.defocus_u, one.score, one.resolution) == (
        9982.50293,
        0.565683,
        1.980663,
    )
    series = ctffind.fits_of_table(folder / "cryocat/TS_017/017_ctffind4.txt")
    assert len(series) == 60
    assert all(10000 < fit.defocus_u < 75000 for fit in series)


def test_what_aretomo_prints_is_read() -> None:
    output = aretomo.output_of(
        "Rot center Z  100.0 200.0 10.5 x\nTilt offset   1.75, CC: 0.9\n"
        "Best tilt axis:    1  84.9   0.87\nRot center Z 100.0 200.0 12.5 x\n"
    )
    assert output.rotation_centre_z == 12.5
    assert output.tilt_offset_deg == 1.75
    assert output.alignment_quality == 0.87
    assert aretomo.angles_file([-3.0, 0.0], order=[2, 1], offset=1.5) == (
        "-1.5  2\n1.5  1\n"
    )


def test_the_picks_of_cryolo_are_counted() -> None:
    output = "12 particles in total has been found\nDeleted 2 particles\n"
    assert others.picks_of_cryolo(output) == 10
    assert others.found_no_picks("Trace\nIndexError: list index out of range\n")
    assert others.found_no_picks("0 particles in total has been found\n")
    assert not others.found_no_picks("10 particles in total has been found\n")
    assert not others.found_no_picks("IndexError: list index out of range\nOOM")


def test_an_alignment_of_imod_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.xf"
    (tmp_path / "s.tlt").write_text("-30\n0\n")
    path.write_text("   1.0  0.0  0.0  1.0   -3.25   4.5\n 0 1 -1 0 2 0\n")
    first, second = read_alignment(path).images
    assert (first.dx_px, first.dy_px, first.rotation_deg) == (3.25, -4.5, 0)
    # DX, DY are in the image that has been turned.
    assert (second.dx_px, second.dy_px, second.rotation_deg) == (0, -2, 90)
    for content in ("", "1 2 3\n", "a b c d e f\n"):
        path.write_text(content)
        with pytest.raises(FormatError, match=r"s\.xf: (cannot be read|found 0)"):
            read_alignment(path)
    log = "Residual error mean and sd:     1.250   0.5\n" * 2
    assert imod.residual_of(f"{log} Residual error mean and sd:  0.432 0.3 Local") == (
        0.432
    )
    assert imod.residual_of("no solution") is None


def test_the_picks_of_topaz_are_read(tmp_path: Path) -> None:
    path = tmp_path / "picks.txt"
    path.write_text("image_name\tx_coord\ty_coord\tscore\nm\t80\t16\t2.5\n")
    assert others.picks_of_topaz(path) == [(80.0, 16.0, 2.5)]
    path.write_text("image_name\tx_coord\ty_coord\tscore\nm\t80\n")
    with pytest.raises(FormatError, match=r"picks\.txt cannot be read as picks"):
        others.picks_of_topaz(path)
