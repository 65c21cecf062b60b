"""Messages of a client of RabbitMQ that means harm: paths, programs, recipes, headers.

What lies outside of the folders that messages may name, and each file that was there
before, has to be as it was; a program must not have run; an answer is one sentence.
"""

import os
import random
import resource
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.fuzz_mutations import VALUES

MOST_BYTES = 200 << 20
# In `{}` stands the folder that messages may name.
_PATHS = (
    *("/etc/hostname", "/etc/passwd", "{}/../outside/secret", "{}/link/secret", "{}"),
    *("{}/a.mrc", "{}/theirs.jpeg", "{}/x/../a.mrc", "{}/a.mrc\0", "{}/a\nb.mrc"),
    *("{}/p/Import/job001/a.mrc", "{}/link/MotionCorr/job002/a.mrc", "a.mrc", ""),
    *("{}/planted/MotionCorr/job002/a.mrc", "{}/planted/Import/job001/a.mrc"),
    *("{}/foreign/Import/job001/a.mrc", "{}/*", "/*/*", "{}/file.mrc", "~/a", "-rf"),
    *("{}/" + "a/" * 3000, "{}/" + "a" * 300, "{}/\ud800", "../../outside/secret"),
)
_NAMES = (
    *(
        "../../../outside/new",
        "a\ndata_b",
        "a b",
        "data_",
        "loop_",
        "{}/../outside/new",
    ),
    *("-rf", ".mrc", "/../../outside/secret", "..", "\0", "x" * 5000, "a'b\"c", "é"),
    *("touch {}/../outside/ran", "{{a:>600000000}}", "cryolo", "relion", "topaz"),
)
_PROGRAMS = (
    "touch {}/../outside/ran",
    "/bin/sh -c 'touch {}/../outside/ran'",
    "rm -r {}",
)
_FORMATS = (
    *("{a:>600000000}", "{a.__class__}", "{a[0]}", "{a!r}", "{a}" * 2000, "{{a}}"),
    *("{$REPLACE:a}", "{$REPLACE:a.b}", "{a.b}", "{0}", "{", "{}"),
)


def attack_by_message(draw: random.Random, seeds: Path, folder: Path) -> None:
    """One message with evil values in some of its fields, to one of the services."""
    from em_platform.cryoem.services import load_service
    from em_platform.cryoem.services.step import ServiceContext, handle_message

    root = _prepare(seeds, folder)
    service = draw.choice(sorted(_BASES))
    message = {k: _filled(v, root) for k, v in _BASES[service].items()}
    names = sorted({*_fields(service), *message})
    for name in draw.sample(names, min(len(names), draw.choice((1, 1, 2, 3)))):
        message[name] = _evil(name, draw, root)
    before = _contents(folder)
    memory = _peak_bytes()
    place = ServiceContext(ispyb_url="sqlite://", roots=(root,))
    try:
        handle_message(load_service(service), {}, message, place)
    finally:
        place.close()
        more = _peak_bytes() - memory
        after = _contents(folder)
        changed = [p for p, content in before.items() if after.get(p) != content]
        assert not changed, f"changed: {changed[0].relative_to(folder)}"
        new = [p for p in after.keys() - before.keys() if root not in p.parents]
        assert not new, f"outside of the roots: {new[0].relative_to(folder)}"
        assert more < MOST_BYTES, f"{more >> 20} MB"


def attack_by_recipe(draw: random.Random, seeds: Path, folder: Path) -> None:
    """A request of recipes that take memory, read files, or go on for ever."""
    from em_platform.cryoem.services import load_service
    from em_platform.cryoem.services.step import ServiceContext, handle_message

    root = _prepare(seeds, folder)
    text = draw.choice(_FORMATS)
    step = {"queue": "a", "parameters": {"x": text, text: draw.choice(_FORMATS)}}
    links = draw.choice((2, [2], [2] * 1000, {"a": 2, "b": [2, 2]}))
    recipe: dict[str, Any] = {
        "1": {**step, "output": links},
        "2": {**step, "output": draw.choice((None, 1, [], 3))},
        "start": [[1, []]] * draw.choice((1, 1, 500)),
    }
    names = [_evil("path", draw, root), "em-spa-extract", "services"]
    message = draw.choice(
        (
            {"custom_recipe": recipe},
            {"recipes": [draw.choice(names)]},
            {"recipes": ["em-spa-extract"] * draw.choice((1, 3))},
        )
    )
    value = draw.choice(("x", "x" * 100_000, {"b": ["x" * 1000]}, *VALUES))
    message["parameters"] = {"a": value, "guid": draw.choice(VALUES)}
    memory = _peak_bytes()
    place = ServiceContext(ispyb_url="sqlite://", roots=(root,))
    try:
        handle_message(load_service("ProcessRecipe"), {}, message, place)
    finally:
        more = _peak_bytes() - memory
        assert more < MOST_BYTES, f"{more >> 20} MB"


def read_headers(draw: random.Random, seeds: Path, folder: Path) -> None:
    """Headers as RabbitMQ delivers them; what goes on can be sent again."""
    import datetime
    import decimal

    from pika.data import encode_table

    from em_platform.cryoem.services.broker import text_headers, tries_of
    from em_platform.cryoem.services.retries import seconds_of

    strange = (*VALUES, b"\xff", decimal.Decimal("1e-9"), datetime.datetime.max)
    names = ("em-tries", "em-due", "x-death", "em-error", "em-queue", "a" * 200)
    headers = {name: draw.choice(strange) for name in draw.sample(names, 3)}
    kept = text_headers(headers)
    pieces: list[bytes] = []
    assert encode_table(pieces, kept) < 100_000
    tries = tries_of(headers)
    assert tries is None or 0 <= tries < 2**31
    due_s = seconds_of(headers.get("em-due", 0))
    assert due_s is None or abs(due_s) < float("inf")


_COMMON = {"pixel_size": 1, "relion_options": {}, "experiment_type": "spa"}
_BASES: dict[str, dict[str, Any]] = {
    "Images": {"image_command": "mrc_to_jpeg", "file": "{}/a.mrc", "diameter": 9},
    "NodeCreator": {"job_type": "relion.importtomo", "experiment_type": "tomography",
                    "input_file": "{}/a.mrc", "relion_options": {},
                    "output_file": "{}/p/Import/job001/TS_1_001_3.0_x.mrc"},
    "MotionCorr": {**_COMMON, "movie": "{}/a.mrc",
                   "mrc_out": "{}/p/MotionCorr/job002/Movies/a.mrc"},
    "CTFFind": {**_COMMON, "input_image": "{}/a.mrc",
                "output_image": "{}/p/CtfFind/job003/Movies/a.ctf"},
    "CrYOLO": {**_COMMON, "input_path": "{}/a.mrc", "particle_diameter": 9,
               "output_path": "{}/p/AutoPick/job004/Movies/a.star"},
    "Extract": {**_COMMON, "micrographs_file": "{}/a.mrc", "boxsize": 8,
                "coord_list_file": "{}/particles.star",
                "output_file": "{}/p/Extract/job005/Movies/a.star"},
    "SelectParticles": {**_COMMON, "input_file": "{}/p/Extract/job005/a.star",
                        "batch_size": 5, "image_size": 8},
    "Class2D": {"particles_file": "{}/particles.star", "class2d_grp_uuid": 1,
                "class2d_dir": "{}/p/Class2D/job007", "class_uuids": {}},
    "AreTomoAlign": {**_COMMON, "input_file_list": [["{}/a.mrc", 0], ["{}/a.mrc", 3]],
                     "stack_file": "{}/p/Tomograms/job006/tomograms/s_stack.mrc"},
    "Denoise": {**_COMMON, "volume": "{}/a.mrc",
                "output_dir": "{}/p/Denoise/job007/tomograms"},
}  # fmt: skip


@cache
def _fields(service: str) -> tuple[str, ...]:
    """The fields of a service's message that may hold a text."""
    import importlib

    from em_platform.cryoem.message_rules import rules_of
    from em_platform.cryoem.services import SERVICES
    from em_platform.cryoem.stage import Rule, StageParameters
    from em_platform.cryoem.stages import load_stage

    stages = {"Images": "thumbnail", "MotionCorr": "motion", "CTFFind": "ctf",
              "CrYOLO": "pick", "Extract": "extract", "Class2D": "classify",
              "AreTomoAlign": "tilt-align", "Denoise": "denoise"}  # fmt: skip
    module = importlib.import_module(f"em_platform.cryoem.services.{SERVICES[service]}")
    kinds: list[type[StageParameters]] = []
    if hasattr(module, "Parameters"):
        kinds.append(module.Parameters)
    if service in stages:
        kinds.append(load_stage(stages[service]).Parameters)
    rules = {name: rule for kind in kinds for name, rule in rules_of(kind).items()}
    return ("engine", *(name for name, rule in rules.items() if rule != Rule.PLAIN))


def _evil(name: str, draw: random.Random, root: Path) -> Any:
    if draw.random() < 0.1:
        return draw.choice(VALUES)
    if name == "cryolo_command":
        return draw.choice(_PROGRAMS).replace("{}", str(root))
    text = draw.choice((*_PATHS, *_NAMES)).replace("{}", str(root))
    if name in ("relion_options", "results", "ctf", "autopick", "ctf_values"):
        keys = ("tilt_series", "tilt_angle", "ctf_image", "pixel_size", "box_size")
        return {key: draw.choice((text, 1, 1.5)) for key in draw.sample(keys, 3)}
    if name == "input_file_list":
        return draw.choice(([[text, 0.0]] * 3, str([[text, 0.0]]), "[" * 5000, text))
    return draw.choice((text, text, text, [text]))


def _filled(value: Any, root: Path) -> Any:
    if isinstance(value, list):
        return [_filled(each, root) for each in value]
    return value.replace("{}", str(root)) if isinstance(value, str) else value


def _prepare(seeds: Path, folder: Path) -> Path:
    """The folder that messages may name, beside one that they may not."""
    root, outside = folder.resolve() / "root", folder.resolve() / "outside"
    root.mkdir()
    outside.mkdir()
    for name in ("a.mrc", "a.mrc.mdoc", "particles.star", "picks.cbox"):
        shutil.copy(seeds / "cryoem" / name, root)
    (outside / "secret").write_text("secret")
    (root / "theirs.jpeg").write_bytes(b"\xff\xd8 theirs")
    (root / "link").symlink_to(outside)
    (root / "file.mrc").symlink_to(outside / "secret")
    (root / "planted").mkdir()
    for name in ("MotionCorr", "Import"):
        (root / "planted" / name).symlink_to(outside)
    (root / "foreign/Import/job001").mkdir(parents=True)
    (root / "foreign/Import/job001/job.star").write_text("data_job\n")
    return root


def _contents(folder: Path) -> dict[Path, bytes | str]:
    found: dict[Path, bytes | str] = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.is_file():
            found[path] = path.read_bytes()
    return found


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


ATTACKS: dict[str, Callable[[random.Random, Path, Path], None]] = {
    "attack": attack_by_message,
    "attack_recipe": attack_by_recipe,
    "attack_headers": read_headers,
}
