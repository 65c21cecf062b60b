import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models import open_ome_zarr

from em_platform.cli import main
from em_platform.formats import open_level, write_tiff


@pytest.fixture
def montage(tmp_path: Path, repository: Path) -> Path:
    """Four overlapping tiles of a real section, named by row and column."""
    image = cv2.imread(
        str(repository / "tests/data/flyem_medulla_fibsem/iso.03690.png"), -1
    )
    folder = tmp_path / "in"
    folder.mkdir()
    for row in range(2):
        for column in range(2):
            y, x = 214 * row, 212 * column
            tile = image[y : y + 306, x : x + 308]
            write_tiff(folder / f"r{row}c{column}.tif", tile)
    return folder


def em_platform(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from em_platform.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.system
def test_names_alone_are_enough_and_the_summary_is_plain(
    montage: Path, tmp_path: Path
) -> None:
    done = em_platform(
        *["stitch", str(montage), "--output", str(tmp_path / "x.zarr")],
        *["--report", str(tmp_path / "r.json"), "--overlap", "30%", "--workers", "2"],
        *["--previews", str(tmp_path / "png"), "--pixel-nm", "10"],
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "4 placed of 4, 0 excluded" in done.stdout
    assert "4 kept, 0 dropped" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    shifts = {(e["a"], e["b"]): (e["dy_px"], e["dx_px"]) for e in report["edges"]}
    assert shifts["r0c0.tif", "r0c1.tif"] == pytest.approx((0, 212), abs=0.1)
    assert shifts["r0c0.tif", "r1c0.tif"] == pytest.approx((214, 0), abs=0.1)
    # Two workers each import numpy and numba: that alone costs this much.
    assert report["cpu_seconds"] > 2
    for name in ("mosaic", "focus", "residuals"):
        assert cv2.imread(str(tmp_path / f"png/{name}.png")) is not None


def test_the_mosaic_is_valid_for_other_readers(montage: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "x.zarr")
    main_without_exit("stitch", str(montage), "--output", target)
    validated = open_ome_zarr(target)
    assert validated.ome_attributes.version == "0.5"
    (node,) = Reader(parse_url(target))()
    assert node.data[0].shape == pytest.approx((520, 520), abs=2)


def main_without_exit(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_lens_a_model_and_settings_are_taken_over(
    montage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("stitching: {render: {chunk_px: 128}}\n")
    zeros = [0.0] * 6
    lens = {
        "microscope": "t",
        "magnification": 1,
        "size": {"height_px": 306, "width_px": 308},
        "degree": 2,
        "dy_px": zeros,
        "dx_px": zeros,
        "residual_mean_px": 0.0,
        "residual_std_px": 0.0,
        "points": 9,
    }
    (tmp_path / "lens.json").write_text(json.dumps(lens))
    status = main_without_exit(
        *["stitch", str(montage), "--output", str(tmp_path / "x.zarr")],
        *["--overlap", "0.3", "--model", "affine", "--search-px", "40"],
        *["--config", str(tmp_path / "c.yaml"), "--lens", str(tmp_path / "lens.json")],
        *["--set", "stitching.render.shard_px=256", "--flat-field", "none"],
        *["--workers", "1"],
    )
    assert status == 0, capsys.readouterr()
    level = open_level(str(tmp_path / "x.zarr"), 0)
    assert level.chunks == (128, 128)
    assert level.shards == (256, 256)


def test_json_is_one_object_on_stdout_and_the_summary_on_stderr(
    montage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "x.zarr")
    arguments = ["stitch", str(montage), "--output", target, "--overlap", "0.3"]
    assert main_without_exit(*arguments, "--workers", "1", "--json") == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)["tiles"]) == 4
    assert "4 placed of 4" in printed.err
    assert main_without_exit("stitch", "nowhere", "--output", target, "--json") == 1
    assert "nowhere" in json.loads(capsys.readouterr().out)["failures"][0]["item"]


@pytest.mark.parametrize(
    ("overlap", "words"),
    [("30px", "placed"), ("30", "overlap  30 px; write 30% for"), ("30%", "placed")],
)
def test_an_overlap_is_a_percentage_or_pixels_and_a_bare_number_is_named(
    montage: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overlap: str,
    words: str,
) -> None:
    target = str(tmp_path / "x.zarr")
    arguments = ["stitch", str(montage), "--output", target, "--overlap", overlap]
    main_without_exit(*arguments, "--workers", "1")
    printed = capsys.readouterr()
    assert words in printed.out + printed.err
    assert ("write 30%" in printed.err) == (overlap == "30")


@pytest.mark.parametrize("overlap", ["120%", "0.3px", "-1", "nan", "much"])
def test_an_overlap_that_cannot_be_is_one_sentence(
    montage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], overlap: str
) -> None:
    target = str(tmp_path / "x.zarr")
    arguments = ["stitch", str(montage), "--output", target, f"--overlap={overlap}"]
    assert main_without_exit(*arguments) == 1
    assert "such as 10% or 200px" in capsys.readouterr().err


@pytest.mark.parametrize("overlap", ["0px", "0%", "0"])
def test_abutting_tiles_are_joined_where_they_lie(
    montage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], overlap: str
) -> None:
    """round3 1.2.6: `--overlap 0px` was refused; 1.2.5: nothing named the pixel."""
    for file in montage.iterdir():
        write_tiff(file, cv2.imread(str(file), -1)[:212, :212])
    target = str(tmp_path / "x.zarr")
    arguments = ["stitch", str(montage), "--output", target, "--overlap", overlap]
    assert main_without_exit(*arguments, "--workers", "1") == 0
    out = capsys.readouterr().out
    assert "424 x 424 px" in out
    assert out.count("Not applicable: the tiles abut: nothing was matched") == 1
    assert "pixel    size unknown" in out and "give --pixel-nm" in out


def test_what_may_be_wrong_with_names_and_options_is_named(
    montage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """round3 1.2.6: swapped files brought "image them again" and "launch it again"."""
    (montage / "r0c0.tif").rename(montage / "x")
    (montage / "r1c1.tif").rename(montage / "r0c0.tif")
    (montage / "x").rename(montage / "r1c1.tif")
    target = str(tmp_path / "x.zarr")
    arguments = ["stitch", str(montage), "--output", target, "--overlap", "30%"]
    assert main_without_exit(*arguments, "--workers", "1", "--pixel-nm", "10") == 2
    out = capsys.readouterr().out
    assert "check that no files are swapped" in out
    assert "launch" not in out
    assert "--overlap 30% was taken as given; leave it out" in out
    assert "size unknown" not in out


def test_help_says_the_kinds_of_input_and_the_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main_without_exit("stitch", "--help") == 0
    printed = capsys.readouterr().out
    for words in ("SerialEM", "render", "Allen", "Exit status", "excluded"):
        assert words in printed


def test_the_real_2x2_is_within_a_pixel_of_its_truth(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, report_path = str(tmp_path / "x.zarr"), tmp_path / "r.json"
    folder = shared_data / "tem_tiles/render_stitch_2x2"
    status = main_without_exit(
        "stitch", str(folder), "--output", target, "--report", str(report_path)
    )
    assert status == 0, capsys.readouterr().out
    report = json.loads(report_path.read_text())
    found = {
        (e["a"].removesuffix(".png"), e["b"].removesuffix(".png")): e
        for e in report["edges"]
    }
    truth = json.loads((shared_data / "truth.json").read_text())
    for a, b, dy, dx, _ in truth["render_stitch_2x2"]["pairs"]:
        assert found[a, b]["dy_px"] == pytest.approx(dy, abs=1)
        assert found[a, b]["dx_px"] == pytest.approx(dx, abs=1)
    open_ome_zarr(target)
    mosaic = np.asarray(open_level(target, 0)[:, :])
    # The black frame is gone from where tiles meet, and all around.
    middle = mosaic[600:-600, 600:-600]
    assert (middle == 0).mean() < 1e-4
    assert (mosaic == 0).mean() < 0.03


def test_the_real_16_bit_pair_is_exact(shared_data: Path, tmp_path: Path) -> None:
    report_path = tmp_path / "r.json"
    main_without_exit(
        *["stitch", str(shared_data / "tem_tiles/render_16bit_pair")],
        *["--output", str(tmp_path / "x.zarr"), "--report", str(report_path)],
    )
    (edge,) = json.loads(report_path.read_text())["edges"]
    assert (edge["dy_px"], edge["dx_px"]) == pytest.approx((0, 299), abs=0.05)


@pytest.fixture
def bucket(
    monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> Iterator[str]:
    """A bucket on a local S3 server, named by the settings of storage."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("EM_STORAGE__ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("EM_STORAGE__ACCESS_KEY", "me")
    monkeypatch.setenv("EM_STORAGE__SECRET_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files = fsspec.filesystem(
        "s3", endpoint_url=f"http://{host}:{port}", key="me", secret="secret"
    )
    files.mkdir("montages")
    yield "s3://montages"
    server.stop()


@pytest.mark.system
def test_tiles_and_mosaic_in_a_bucket(
    montage: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "endpoint_url": os.environ["EM_STORAGE__ENDPOINT_URL"],
        "key": "me",
        "secret": "secret",
    }
    files = fsspec.filesystem("s3", **options)
    files.put(str(montage), "montages/", recursive=True)
    report_path = tmp_path / "r.json"
    status = main_without_exit(
        *["stitch", f"{bucket}/in", "--output", f"{bucket}/x.zarr"],
        *["--overlap", "0.3", "--report", str(report_path), "--workers", "1"],
    )
    assert status == 0, capsys.readouterr()
    level = open_level(f"{bucket}/x.zarr", 0, storage_options=options)
    assert level.shape == pytest.approx((520, 520), abs=2)
    assert len(json.loads(report_path.read_text())["tiles"]) == 4
