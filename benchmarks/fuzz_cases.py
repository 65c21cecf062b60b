"""One case of the fuzzer: what is written and read, and what may come out of it.

A case is a target and a number, which is the seed of all that is drawn: the same two
give the same input.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.fuzz_attacks import ATTACKS
from benchmarks.fuzz_cryoem import handle_recipe_message, read_cryoem
from benchmarks.fuzz_forwarded import ask_by_proxy
from benchmarks.fuzz_mutations import VALUES, mutated_json, mutation_of
from benchmarks.fuzz_network import (
    ask_aloha,
    ask_chimera,
    read_frames,
    send_to_temdb,
)
from benchmarks.fuzz_seeds import SEEDS, message_bodies
from benchmarks.fuzz_services import ask_operator, send_to_aloha
from em_platform.errors import PlatformError

MOST_WORDS = 3100  # characters of a sentence
_MOST_PX = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a case ended; `wrong` is empty for a right answer and for one sentence."""

    sentence: str = ""
    wrong: str = ""


def write_seeds(folder: Path) -> None:
    """All valid inputs, each in a folder of its name."""
    for name, write in SEEDS.items():
        (folder / name).mkdir(parents=True)
        write(folder / name)


def run_case(case: str, *, seeds: Path, folder: Path) -> Outcome:
    """Write the input of a case into an empty folder, and read it.

    Raises
    ------
    Exception
        What is no sentence: a finding.
    """
    target, _, _ = case.partition(" ")
    draw = random.Random(case)
    try:
        TARGETS[target](draw, seeds, folder)
        return Outcome(wrong=_left_over(folder))
    except PlatformError as error:
        sentence = str(error)
    except ValidationError as error:
        if target != "messages":
            raise
        from em_platform.messaging.topics import reason

        sentence = reason(error)
    if len(sentence.splitlines()) != 1 or len(sentence) > MOST_WORDS:
        return Outcome(sentence=sentence, wrong="a sentence of several lines or pages")
    return Outcome(sentence=sentence, wrong=_left_over(folder))


def _left_over(folder: Path) -> str:
    found = [str(p.relative_to(folder)) for p in folder.rglob("*.partial*")]
    return f"left over: {', '.join(found[:3])}" if found else ""


def _mutate(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(mutation_of(path.name, content, draw)(content, draw))


def _read_file(draw: random.Random, seeds: Path, folder: Path) -> None:
    from em_platform.formats import described, read_header, read_image
    from em_platform.formats.open import open_file

    name = draw.choice(sorted(p.name for p in (seeds / "files").iterdir()))
    path = folder / name
    shutil.copy(seeds / "files" / name, path)
    _mutate(path, draw)
    refused: PlatformError | None = None
    try:
        volume = open_file(str(path))
        json.dumps(described(volume.info), allow_nan=False)
        _read_some(volume, draw)
    except PlatformError as error:
        refused = error
    header = read_header(str(path))
    if header.size.height_px * header.size.width_px < _MOST_PX:
        pixels = read_image(str(path))
        assert pixels.shape == (header.size.height_px, header.size.width_px)
        assert pixels.dtype.name == header.dtype
    if refused is not None:
        raise refused


def _read_some(volume: Any, draw: random.Random) -> None:
    """A part of a plane; of a volume of that shape and type."""
    z, y, x = volume.info.shape
    plane = draw.randrange(z) if z else 0
    region = (slice(plane, plane + 1), slice(0, 64), slice(max(0, x - 64), x))
    found = volume.read(region)
    assert found.shape == (min(z, 1), min(y, 64), min(x, 64)), found.shape
    assert found.dtype.name == volume.info.dtype, found.dtype


def _chunked(name: str) -> Callable[[random.Random, Path, Path], None]:
    def read(draw: random.Random, seeds: Path, folder: Path) -> None:
        from em_platform.formats import described, list_levels
        from em_platform.formats.open import open_volume

        shutil.copytree(seeds / name, folder / "a", dirs_exist_ok=True)
        files = sorted(p for p in (folder / "a").rglob("*") if p.is_file())
        metadata = [p for p in files if p.read_bytes()[:1] == b"{"]
        _mutate(draw.choice(metadata if draw.random() < 0.85 else files), draw)
        volume = open_volume(str(folder / "a"))
        json.dumps(described(volume.info), allow_nan=False)
        _read_some(volume, draw)
        list_levels(str(folder / "a"))

    return read


def _list(name: str) -> Callable[[random.Random, Path, Path], None]:
    def read(draw: random.Random, seeds: Path, folder: Path) -> None:
        from em_platform.stitching.inputs import open_montage

        shutil.copytree(seeds / name, folder, dirs_exist_ok=True)
        listed = (".csv", ".json", ".mdoc")
        (path,) = (p for p in folder.iterdir() if p.suffix in listed)
        _mutate(path, draw)
        # Names may be taken where the list is gone.
        montage = open_montage(folder, overlap=draw.choice((0.3, 32.0)))
        montage.model_dump_json()

    return read


def _stitch(draw: random.Random, seeds: Path, folder: Path) -> None:
    from em_platform.config import StitchingSettings
    from em_platform.stitching.inputs import open_montage
    from em_platform.stitching.stitch import stitch_montage

    name = draw.choice(("table", "json_table", "specs", "metafile"))
    shutil.copytree(seeds / name, folder / "in", dirs_exist_ok=True)
    _mutate(draw.choice(sorted((folder / "in").iterdir())), draw)
    montage = open_montage(folder / "in", overlap=0.3)
    stitch_montage(montage, str(folder / "m.zarr"), settings=StitchingSettings())


def _settings(draw: random.Random, seeds: Path, folder: Path) -> None:
    from em_platform.config import load_settings
    from em_platform.config.fields import FIELDS

    name = draw.choice(("config.yaml", "a.env", ""))
    if name:
        shutil.copy(seeds / "settings" / name, folder / name)
        _mutate(folder / name, draw)
    fields = sorted(field.name for field in FIELDS.values())
    value = draw.choice(VALUES)
    load_settings(
        folder / name if name == "config.yaml" else None,
        env_file=folder / name if name == "a.env" else None,
        environment={},
        overrides={} if name else {draw.choice(fields): json.dumps(value)},
    )


def _message(draw: random.Random, seeds: Path, folder: Path) -> None:
    from em_platform.messaging.topics import read_body

    topic = draw.choice(sorted(message_bodies()))
    read_body(topic, mutated_json(message_bodies()[topic], draw))


def _mosaic(draw: random.Random, seeds: Path, folder: Path) -> None:
    from em_platform.formats import describe, level_count, open_level
    from em_platform.ome_zarr import preview

    shutil.copytree(seeds / "mosaic", folder, dirs_exist_ok=True)
    image = folder / "m.zarr"
    _mutate(draw.choice(sorted(p for p in image.rglob("*") if p.is_file())), draw)
    url = str(image)
    describe(url)
    for level in range(level_count(url)):
        open_level(url, level)
    preview(url, 32)


TARGETS: dict[str, Callable[[random.Random, Path, Path], None]] = {
    "file": _read_file,
    **{name: _chunked(name) for name in ("ome2", "ome3", "n5", "precomputed")},
    **{
        name: _list(name)
        for name in ("table", "json_table", "specs", "metafile", "mdoc")
    },
    "settings": _settings,
    "messages": _message,
    "mosaic": _mosaic,
    "stitch": _stitch,
    "cryoem": read_cryoem,
    "recipe_message": handle_recipe_message,
    "frames": read_frames,
    "aloha": ask_aloha,
    "chimera": ask_chimera,
    "temdb": send_to_temdb,
    "operator": ask_operator,
    "aloha_upload": send_to_aloha,
    "forwarded": ask_by_proxy,
    **ATTACKS,
}
SHARES = {"file": 8, "cryoem": 16, "stitch": 1, "operator": 8, "aloha_upload": 8}
"""Of the cases, where it is not 2."""
