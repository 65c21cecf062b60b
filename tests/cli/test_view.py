"""`em-platform view`: the mosaic is seen in a real browser, without internet."""

import io
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from em_platform.config import RenderSettings
from em_platform.model import Review
from em_platform.ome_zarr import mosaic_attributes, write_pyramid
from em_platform.storage.manifest import Product
from tests.chromium import chromium, needs_chromium

VIEW = [sys.executable, "-m", "em_platform", "view"]


def write(folder, pixels, voxel_nm=(4.0, 4.0), **more):
    write_pyramid(
        str(folder),
        pixels.shape,
        dtype=np.uint8,
        render=lambda region: pixels[region],
        settings=RenderSettings(chunk_px=128, shard_px=512),
        name="halves",
        product=Product(kind="mosaic", of="a test"),
        fingerprint="",
        voxel_nm=voxel_nm,
        **more,
    )


@pytest.fixture
def page(tmp_path):
    """The address of a page that shows an image, black above and white below."""
    pixels = np.full((900, 900), 10, np.uint8)
    pixels[450:] = 245
    write(tmp_path / "halves.zarr", pixels)
    command = [*VIEW, str(tmp_path / "halves.zarr"), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/\S+", line)
    assert found, line
    yield found[0]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert (rest, process.returncode) == ("closed\n", 0)


def shown(page):
    """Grey levels in the middle of the page, once the image is there."""
    graphics = ["--use-gl=angle", "--use-angle=swiftshader"]
    options = ["--enable-unsafe-swiftshader", *graphics]
    outside = []
    with chromium(*options) as browser:
        tab = browser.new_page(viewport={"width": 1200, "height": 800})
        tab.on("request", lambda request: outside.append(request.url))
        tab.goto(page)
        for _ in range(150):  # a busy computer draws slowly without a graphics card
            tab.wait_for_timeout(500)
            picture = Image.open(io.BytesIO(tab.screenshot())).convert("L")
            grey = np.asarray(picture)[200:660, 400:800].astype(float)
            if grey[:150].mean() < 60 and grey[-150:].mean() > 200:
                break
    local = ("http://127.0.0.1", "data:", "blob:")
    assert [url for url in outside if not url.startswith(local)] == []
    return grey


@pytest.mark.system
@pytest.mark.timeout(180)
@needs_chromium
def test_the_mosaic_is_seen_in_the_browser_without_internet(page):
    grey = shown(page)
    assert grey[:150].mean() < 60
    assert grey[-150:].mean() > 200


@pytest.mark.system
def test_a_volume_is_shown_in_four_panels_at_its_place(tmp_path):
    import neuroglancer

    from em_platform.cli import view as page

    group = tmp_path / "volume.zarr"
    write_small_volume(group)
    shown = page._measure(str(group), {})
    assert shown.names == ["x", "y", "z"]
    assert shown.edges == [4.0, 4.0, 20.0]
    assert shown.centre == [16 + 100, 16 + 50, 4 + 10]
    viewer = page._open_viewer("http://127.0.0.1/volume.zarr", shown, port=0)
    state = viewer.state
    neuroglancer.stop()
    assert state.layout.type == "4panel"
    assert list(state.position) == shown.centre
    low, high = state.layers["volume"].layer.shader_controls["normalized"].range
    assert 900 < low < high < 1100


@pytest.mark.system
@pytest.mark.parametrize(
    ("voxel_nm", "name", "has_bar"),
    [((4.0, 4.0), "mosaic", True), (None, "mosaic (px)", False)],
)
def test_without_a_pixel_size_no_scale_is_made_up(tmp_path, voxel_nm, name, has_bar):
    """round3 1.2.5: the bar read "300" without a unit."""
    import neuroglancer

    from em_platform.cli import view as page

    write(tmp_path / "a.zarr", np.ones((90, 90), np.uint8), voxel_nm=voxel_nm)
    shown = page._measure(str(tmp_path / "a.zarr"), {})
    state = page._open_viewer("http://127.0.0.1/a.zarr", shown, port=0).state
    neuroglancer.stop()
    assert [layer.name for layer in state.layers] == [name]
    assert state.show_scale_bar is has_bar


def write_small_volume(folder):
    from em_platform.config import OutputSettings
    from em_platform.model.volume import VolumeInfo
    from em_platform.ome_zarr import write_volume

    class Noise:
        info = VolumeInfo(
            uri="noise",
            format="noise",
            shape=(8, 32, 32),
            dtype="int16",
            voxel_size_nm=(20.0, 4.0, 4.0),
            origin_nm=(200.0, 200.0, 400.0),
        )

        def read(self, region):
            rng = np.random.default_rng(1)
            return rng.normal(1000, 9, (8, 32, 32)).astype(np.int16)[region]

    write_volume(
        str(folder),
        Noise(),
        settings=OutputSettings(),
        name="noise",
        product=Product(kind="mosaic", of="a test"),
        fingerprint="",
    )


def view(*arguments, cwd):
    return subprocess.run(
        [*VIEW, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_what_is_no_image_is_reported_in_one_sentence(tmp_path):
    result = view("nothing.zarr", "--no-browser", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "em-platform: image: nothing.zarr is not an OME-Zarr"
    )
    assert len(result.stderr.splitlines()) == 1


def test_a_port_in_use_is_reported_in_one_sentence(tmp_path):
    write(tmp_path / "a.zarr", np.full((64, 64), 9, np.uint8))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = view("a.zarr", "--no-browser", "--port", str(port), cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"em-platform: view: port {port} cannot be used")
    assert len(result.stderr.splitlines()) == 1


def test_a_mosaic_that_needs_review_says_so_when_it_is_opened(tmp_path):
    lost = Review(status="needs_review", reasons=("Missing: 1 of 4 tiles.",))
    pixels = np.full((64, 64), 9, np.uint8)
    write(tmp_path / "a.zarr", pixels, attributes=mosaic_attributes((0, 0), lost))
    command = [*VIEW, "a.zarr", "--no-browser"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert "http://127.0.0.1:" in process.stdout.readline()
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
    assert line == "needs review: Missing: 1 of 4 tiles.\n"
