"""Whatever writes is pointed at what is not ours: refused, and every byte is there.

A new command, option or asset fails here until it stands in one of the tables.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest

from em_platform.cli import COMMANDS, cli, main
from em_platform.cryoem.stage import options_of
from em_platform.cryoem.stages import STAGES, load_stage
from em_platform.formats import write_tiff
from em_platform.storage.lease import one_writer

WRITES: dict[tuple[str, str], str] = {
    ("stitch", "output"): "image",
    ("stitch", "report"): "file",
    ("stitch", "previews"): "pictures",
    ("convert", "output"): "image",
    ("export", "target"): "file",
    ("acquire", "report_path"): "file",
    ("acquire", "draw"): "file",
    ("catalog schema", "target"): "file",
    ("catalog export", "folder"): "folder",
    ("catalog consolidate", "target"): "root",
    ("standins", "env_file"): "file",
    ("docs", "folder"): "checkout",
    ("simulate", "output"): "root",
    ("sections", "output"): "root",
    ("demo", "home"): "home",
    ("demo cryoem", "home"): "home",
    ("demo ingest", "home"): "home",
    ("demo montages", "home"): "home",
    ("demo simulation", "home"): "home",
    ("cryoem project rebuild", "folder"): "project",  # see test_project.py
}
WRITES |= {(f"cryoem {stage}", "output"): "folder" for stage in STAGES}
"""Option or argument by which a person names an output -> what it becomes."""

READS = {
    *(("stitch", name) for name in ("source", "image", "lens", "config")),
    ("acquire", "profile"),
    ("convert", "source"),
    ("export", "image"),
    ("simulate", "config"),
    ("simulate", "tem_simulator"),
    *(
        (f"catalog {name}", "paths")
        for name in (
            "list",
            "search",
            "validate",
            "consolidate",
            "duplicates",
            "export",
        )
    ),
    ("inspect", "uris"),
    ("view", "image"),
    ("standins", "folder"),  # takes what is there as its own data and replaces nothing
    ("catalog migrate", "paths"),  # keeps each file that it changes, see test_migrate
    ("inspect", "endpoint"),
    ("standins", "faults"),
    *((f"cryoem recipe {name}", "file") for name in ("lint", "run", "send")),
}
# Files of a stage's parameters are inputs: what it writes is in its folder.
READS |= {
    (f"cryoem {stage}", name)
    for stage in STAGES
    for name in options_of(load_stage(stage).Parameters)
}
"""Those by which a person names something that is only read."""

COMMON = {"config", "profile"}
"""Options that every command has; what they name is only read."""

IN_HOME = {"up", "acquire", "recorder", "device", "service", "fault", "ingest"}
"""Commands that work in the folder `home`."""

OF_A_PLACE = ("PATH", "FILE", "FOLDER", "URL", "X.ZARR", "INPUT", "TARGET")


def parameters() -> Iterator[tuple[str, click.Parameter]]:
    """Each command's name with each of its parameters."""

    def walk(
        name: str, command: click.Command
    ) -> Iterator[tuple[str, click.Parameter]]:
        for parameter in command.params:
            yield name, parameter
        if isinstance(command, click.Group):
            context = click.Context(command)
            for below in command.list_commands(context):
                each = command.get_command(context, below)
                assert each is not None
                yield from walk(f"{name} {below}", each)

    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        yield from walk(name, command)


def names_a_place(parameter: click.Parameter) -> bool:
    shown = f"{parameter.metavar or ''} {parameter.human_readable_name}".upper()
    is_path = isinstance(parameter.type, click.Path | click.File)
    return is_path or any(word in shown for word in OF_A_PLACE)


def test_every_option_that_names_a_place_is_in_a_table() -> None:
    every = {(name, str(parameter.name)) for name, parameter in parameters()}
    found = {(name, str(p.name)) for name, p in parameters() if names_a_place(p)}
    found = {(name, option) for name, option in found if option not in COMMON}
    unknown = found - WRITES.keys() - READS
    assert not unknown, f"say in WRITES or READS what these do: {sorted(unknown)}"
    gone = {*WRITES, *READS} - every
    assert not gone, f"no command has these any more: {sorted(gone)}"


# --- another user's place, and all bytes that are in it ---


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """A folder of 2 x 2 tiles, in a folder that has other files, too."""
    folder = tmp_path / "project.zarr" / "tiles.zarr"  # names that stitch would take
    folder.mkdir(parents=True)
    noise = np.random.default_rng(1).normal(128, 300, (512, 512)).astype(np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)
    lines = ["file,x_px,y_px"]
    for number, (y, x) in enumerate(((0, 0), (0, 192), (192, 0), (192, 192))):
        write_tiff(folder / f"t{number}.tif", image[y : y + 256, x : x + 256])
        lines.append(f"t{number}.tif,{x},{y}")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")
    (folder.parent / "notes.zarr").write_text("three weeks of work")
    (folder.parent / "other.zarr").mkdir()
    (folder.parent / "other.zarr/zarr.json").write_text('{"attributes": {}}')
    return folder


def digests(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    try:
        main(list(arguments))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    else:
        status = 0
    shown = capsys.readouterr()
    return status, f"{shown.out}{shown.err}"


@pytest.fixture
def refused(
    tiles: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command: it ends with one sentence, and all bytes of others are there."""

    def run_it(*arguments: str) -> str:
        before = digests(tiles.parent)
        status, shown_output = run(*arguments, capsys=capsys)
        # 2 where click itself refuses, as a folder where a file is wanted.
        assert status in (1, 2), shown_output
        assert "Traceback" not in shown_output
        assert digests(tiles.parent) == before
        return shown_output

    return run_it


FOREIGN: dict[str, Callable[[Path], Path]] = {
    "its own input": lambda tiles: tiles,
    "a parent of it": lambda tiles: tiles.parent,
    "a tile": lambda tiles: tiles / "t1.tif",
    "a file": lambda tiles: tiles.parent / "notes.zarr",
    "a folder of another program": lambda tiles: tiles.parent / "other.zarr",
}


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["", "overwrite"])
@pytest.mark.parametrize("place", FOREIGN)
def test_stitch_puts_no_mosaic_over_others(
    tiles: Path, refused: Callable[..., str], place: str, overwrite: tuple[str, ...]
) -> None:
    target = str(FOREIGN[place](tiles))
    shown_output = refused("stitch", str(tiles), "--output", target, *overwrite)
    assert target in shown_output.replace("\n", "")


def test_stitch_puts_no_mosaic_over_the_folder_that_one_works_in(
    tiles: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiles.parent / "other.zarr")
    for target in (".", "../other.zarr", ".."):
        refused("stitch", str(tiles), "--output", target)


@pytest.mark.parametrize("place", FOREIGN)
@pytest.mark.parametrize("option", ["--report", "--previews"])
def test_stitch_puts_no_report_and_no_pictures_over_others(
    tiles: Path, refused: Callable[..., str], option: str, place: str, tmp_path: Path
) -> None:
    for name in ("mosaic.png", "focus.png", "residuals.png"):
        for folder in (tiles, tiles.parent, tiles.parent / "other.zarr"):
            (folder / name).write_bytes(b"a picture of another user")
    target, mosaic = FOREIGN[place](tiles), tmp_path / "m.zarr"
    refused("stitch", str(tiles), "--output", str(mosaic), option, str(target))
    assert not mosaic.exists()  # refused before any work is done


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["", "overwrite"])
@pytest.mark.parametrize("place", FOREIGN)
def test_convert_and_export_put_nothing_over_others(
    tiles: Path,
    refused: Callable[..., str],
    place: str,
    overwrite: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = FOREIGN[place](tiles)
    refused("convert", str(tiles / "t0.tif"), str(target), *overwrite)
    mosaic = str(tmp_path / "m.zarr")
    assert run("convert", str(tiles / "t0.tif"), mosaic, capsys=capsys)[0] == 0
    refused("export", mosaic, str(target), *overwrite)
    (tiles / "t9.png").write_bytes(b"a picture of others")
    refused("export", mosaic, str(tiles / "t9.png"), *overwrite)


def test_what_stitch_made_it_makes_again_and_for_others_only_when_asked(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    asked = [str(tmp_path / "m.zarr"), "--report", str(tmp_path / "r.json")]
    asked += ["--previews", str(tmp_path / "png")]
    other = tmp_path / "other tiles"
    shutil.copytree(tiles, other)
    assert run("stitch", str(tiles), "--output", *asked, capsys=capsys)[0] == 0
    before = digests(tmp_path / "m.zarr")
    assert run("stitch", str(tiles), "--output", *asked, capsys=capsys)[0] == 0
    assert digests(tmp_path / "m.zarr") == before
    status, shown_output = run("stitch", str(other), "--output", *asked, capsys=capsys)
    assert status == 1
    assert "replace it by --overwrite" in shown_output
    assert digests(tmp_path / "m.zarr") == before
    asked.append("--overwrite")
    assert run("stitch", str(other), "--output", *asked, capsys=capsys)[0] == 0
    assert digests(tmp_path / "m.zarr") != before


def test_a_second_stitch_into_one_mosaic_is_refused_before_any_work_is_done(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "m.zarr")
    with one_writer(target, work="a stitch of grid-1"):
        status, shown_output = run(
            "stitch", str(tiles), "--output", target, capsys=capsys
        )
    assert status == 1
    assert "is being written by a stitch of grid-1 (process " in shown_output
    assert list(tmp_path.glob("m.zarr*")) == []


FILES: dict[tuple[str, str], tuple[str, ...]] = {
    ("acquire", "report_path"): ("acquire", "--report"),
    ("acquire", "draw"): ("acquire", "--draw"),
    ("catalog schema", "target"): ("catalog", "schema"),
    ("standins", "env_file"): ("standins", "--sources", "epfl", "--write"),
}


@pytest.mark.parametrize("command", FILES.values(), ids=" ".join)
@pytest.mark.parametrize("place", FOREIGN)
def test_no_file_is_put_over_others(
    tiles: Path, refused: Callable[..., str], command: tuple[str, ...], place: str
) -> None:
    target = FOREIGN[place](tiles)
    if command[-1] == "--draw" and target.is_file():
        target = target.rename(target.with_suffix(".dot"))
    refused(*command, str(target))


@pytest.mark.parametrize("place", FOREIGN)
def test_no_crate_and_no_catalog_is_put_over_others(
    tiles: Path, refused: Callable[..., str], place: str, tmp_path: Path
) -> None:
    record = tmp_path / "records" / "r.json"
    record.parent.mkdir()
    record.write_text(RECORD)
    target = str(FOREIGN[place](tiles))
    if Path(target).is_file():
        target = str(Path(target).parent)
    refused("catalog", "export", target, "--in", str(record))
    refused("catalog", "consolidate", str(record), "--to", target)


def test_the_pages_are_written_into_a_checkout_only(
    tiles: Path, refused: Callable[..., str]
) -> None:
    (tiles.parent / "config.yaml").write_text("mine: true\n")
    assert "is not a checkout" in refused("docs", "--folder", str(tiles.parent))


@pytest.mark.parametrize("command", sorted(IN_HOME))
def test_no_command_works_in_a_folder_of_others(
    tiles: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    more = {"device": ["stage"], "service": ["buffer"], "fault": ["clear"]}
    monkeypatch.setenv("EM_HOME", str(tiles.parent))
    assert "holds what em-platform did not make" in refused(
        command, *more.get(command, ())
    )


@pytest.mark.parametrize(
    "part",
    [
        "demo",
        *(f"demo {part}" for part in ("cryoem", "ingest", "montages", "simulation")),
    ],
)
def test_no_demo_works_in_a_folder_of_others(
    tiles: Path, refused: Callable[..., str], part: str
) -> None:
    name, *below = part.split()
    refused(name, *below, "--home", str(tiles.parent), "--exit")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_stitch_puts_no_mosaic_over_objects_of_others(
    tiles: Path,
    bucket: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import fsspec

    filesystem = fsspec.filesystem("s3", use_listings_cache=False, **bucket)
    filesystem.pipe_file("bucket/mine.zarr/notes.txt", b"three weeks of work")
    endpoint = bucket["client_kwargs"]["endpoint_url"]
    monkeypatch.setenv("EM_STORAGE__ENDPOINT_URL", endpoint)
    monkeypatch.setenv("EM_STORAGE__ACCESS_KEY", bucket["key"])
    monkeypatch.setenv("EM_STORAGE__SECRET_KEY", bucket["secret"])
    for target in ("s3://bucket/mine.zarr", "s3://bucket/mine.zarr/notes.txt"):
        status, shown_output = run(
            "stitch", str(tiles), "--output", target, "--overwrite", capsys=capsys
        )
        assert status == 1, shown_output
    assert filesystem.find("bucket/mine.zarr") == ["bucket/mine.zarr/notes.txt"]
    assert filesystem.cat_file("bucket/mine.zarr/notes.txt") == b"three weeks of work"


RECORD = """{
 "id": "7a3f2f1e-2a4e-5c44-8f3e-0b1c5d8f6a10", "source": "ebi", "source_id": "1",
 "status": "pending", "created_at": "2026-01-01T00:00:00Z",
 "metadata": {"core": {"description": "a dataset"}}
}"""
