"""Each how-to page does what it says, as far as one machine can."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from em_platform.standins.world import World
from tests.docs.page_runner import run_page

Run = Callable[..., list[str]]

ELSEWHERE = {
    "add-a-device": "tests/simulation/test_add_a_device.py",
    "add-an-assembler": "tests/simulation/tilt_series/test_add_an_assembler.py",
    "add-a-qc-rule": "tests/docs/test_add_a_qc_rule.py",
    "add-a-source": "tests/ingest/test_add_a_source.py",
    "add-a-stage": "tests/cryoem/test_add_a_stage.py",
    "add-an-asset": "tests/orchestration/test_add_an_asset.py",
    "backfill-a-montage": "tests/system/test_up_microscope.py",
    "backfill-a-source": "tests/system/test_up_microscope.py",
    "point-at-real-hardware": "needs a microscope",
    "process-cryo-em-data": "tests/cryoem/",
    "read-a-failure": "has no command",
    "run-the-live-microscope": "tests/system/test_up_microscope.py",
    "run-with-docker": "needs Docker",
    "use-external-programs": "tests/cryoem/test_engines.py",
}
"""Page -> what runs it besides the tests of this file, or why nothing does."""


OLD = {
    "source": "empiar",
    "source_id": "11759",
    "description": "a slice",
    "volume_shape": [20, 30],
    "dtype": "uint8",
    "timestamp": "2025-05-30T20:42:10",
    "local_paths": {"volume": "/data/a.npy"},
}
"""A record as the source projects wrote it."""
SMALL_SECTION = {
    "5500": "275",
    "5496": "274",
    "43.99 µm x 43.96 µm": "...",
    "29.0 MiB, 28.8 MiB": "...",
}
"""What the page's section has, and the smaller one of the stand-in."""


@pytest.fixture
def environment(free_port: Callable[[], int], repository: Path) -> dict[str, str]:
    """Ports that nobody else has, and no home but that of the page."""
    return {
        "EM_BROKER__PORT": str(free_port()),
        "EM_WEB__PORT": str(free_port()),
        "PYTHONPATH": str(repository),
    }


@pytest.fixture
def run(repository: Path, tmp_path: Path, environment: dict[str, str]) -> Run:
    """Runs a how-to page in the folder of the test."""

    def run(
        name: str, more: Mapping[str, str] | None = None, **replace: str
    ) -> list[str]:
        return run_page(
            repository / f"docs/how-to/{name}.md",
            tmp_path,
            environment=environment | dict(more or {}),
            replace=replace,
        )

    return run


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 2 x 2 overlapping tiles."""
    folder = tmp_path_factory.mktemp("how_to") / "tiles"
    folder.mkdir()
    noise = np.random.default_rng(1).normal(size=(720, 720))
    texture = sum(cv2.GaussianBlur(noise, None, s) * s for s in (2, 5))
    image = np.uint8(np.clip(128 + 40 * texture / texture.std(), 0, 255))
    for row in range(2):
        for column in range(2):
            y, x = 320 * row + 3 * column, 320 * column + 2 * row
            tile = image[y : y + 384, x : x + 384]
            cv2.imwrite(str(folder / f"r{row:03}c{column:03}.tif"), tile)
    return folder


@pytest.mark.parametrize(
    "page",
    [
        "use-the-command-line",
        "convert-and-export",
        "add-a-format",
        "simulate-sections",
        "simulate-tilt-series",
        "run-cryo-em-services",
    ]
)
def test_a_page_that_needs_nothing(run: Run, page: str) -> None:
    run(page)


@pytest.mark.system
def test_a_folder_of_tiles_on_disk_and_on_s3(
    run: Run, tiles: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    shutil.copytree(tiles, tmp_path / "tiles")
    run("stitch-a-folder", FOLDER="tiles")
    run("view-a-mosaic")
    run("store-on-s3", FOLDER="tiles", **{"5555": str(free_port())})


@pytest.mark.system
@pytest.mark.timeout(300)
def test_public_data_from_the_archive_to_the_catalog(
    run: Run, world: World, tmp_path: Path
) -> None:
    two = {"EM_INGEST__SOURCES": "ebi,idr"}  # the others cost a minute more
    run("ingest-public-data", {**world.environment, **two})
    (section,) = tmp_path.glob(".em_platform/raw/ebi/11759/**/*slice_0000.dm3")
    shutil.copy(section, tmp_path / "section_0000.dm3")
    run("inspect-a-file", **SMALL_SECTION)
    (tmp_path / "old_records").mkdir()
    (tmp_path / "old_records/old.json").write_text(json.dumps(OLD))
    run("search-the-catalog")


@pytest.mark.system
@pytest.mark.timeout(300)
def test_stand_ins_are_served_and_take_faults(
    run: Run, free_port: Callable[[], int]
) -> None:
    run(
        "run-the-stand-ins", {"EM_INGEST__SOURCES": "ebi"}, **{"8900": str(free_port())}
    )


def test_every_page_is_run_or_says_why_not(repository: Path) -> None:
    source = Path(__file__).read_text()
    pages = {page.stem for page in (repository / "docs/how-to").glob("*.md")}
    assert not [page for page in pages if f'"{page}"' not in source]
    assert not set(ELSEWHERE) - pages
