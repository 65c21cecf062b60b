"""Chimera and ChimeraX put together what numpy does, and their faults are survived."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mrcfile
import numpy as np
import psutil
import pytest

from em_platform.config.simulators import ChimeraSettings
from em_platform.errors import ConfigError, ToolFailed, ToolMissing
from em_platform.simulation.tilt_series.assemblers import assembler_of
from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample
from em_platform.simulation.tilt_series.assemblers.chimera import (
    Batch,
    ChimeraPool,
    composed_by_chimera,
    sum_commands,
)
from em_platform.simulation.tilt_series.assemblers.chimera.commands import (
    Flavour,
    checked,
    quoted,
)
from em_platform.simulation.tilt_series.assemblers.parts import (
    Move,
    Part,
    Turn,
    composed,
)
from em_platform.simulation.tilt_series.plan import Assembly, Plan
from em_platform.standins.chimera import Program, serve
from em_platform.standins.faults import Fault, Faults

FLAVOURS: tuple[Flavour, ...] = ("chimera", "chimerax")


def blob(name: str, side: int, seed: int) -> DensityMap:
    """A smooth map without any symmetry."""
    rng = np.random.default_rng(seed)
    place = np.indices((side,) * 3) - side // 2
    found = np.zeros((side,) * 3)
    for _ in range(3):
        centre = rng.uniform(-2, 2, 3)[:, None, None, None]
        found += np.exp(-((place - centre) ** 2).sum(axis=0) / rng.uniform(3, 6))
    return DensityMap(name=name, potential_v=found.astype(np.float32), voxel_nm=0.5)


MEMBRANE, BARREL, ROD = (
    blob("membrane", 20, 1),
    blob("barrel", 16, 2),
    blob("rod", 13, 3),
)

PARTS = (
    Part(map=MEMBRANE, factor=1.5),
    Part(
        map=BARREL,
        steps=(
            Turn(axis="x", degrees=4.5),
            Turn(axis="y", degrees=-30),
            Move(by_nm=(1.5, -0.25, -4.3)),
        ),
    ),
    Part(
        map=ROD,
        steps=(
            Turn(axis="z", degrees=72),
            Move(by_nm=(2, 3, -4.3)),
            Turn(axis="x", degrees=20, own=True),
        ),
    ),
)


@pytest.fixture
def attached() -> Iterator[Callable[..., ChimeraSettings]]:
    """Servers of stand-ins, and the settings by which a pool reaches them."""
    servers = []

    def start(
        *programs: Program, faults: tuple[Fault, ...] = (), **own: float
    ) -> ChimeraSettings:
        for number, program in enumerate(programs):
            switched = Faults()
            switched.add(*faults[number : number + 1])
            json = program.flavour == "chimerax"
            servers.append(serve(program, answers_json=json, faults=switched))
        urls = tuple(each.url for each in servers[-len(programs) :])
        return ChimeraSettings(flavour=programs[0].flavour, urls=urls, **own)

    yield start
    for server in servers:
        server.close()


def made(settings: ChimeraSettings, folder: Path, count: int = 1) -> list[np.ndarray]:
    with ChimeraPool(settings) as pool:
        return list(composed_by_chimera([PARTS] * count, pool=pool, folder=folder))


def test_chimera_gets_the_documented_commands() -> None:
    files = [Path("/t/m.mrc"), Path("/t/b.mrc"), Path("/t/with space/r.mrc")]
    commands = sum_commands(PARTS, files, Path("/t/o.mrc"), flavour="chimera")
    assert commands == [
        "open #108 /t/m.mrc",
        "vop scale #108 factor 1.500 modelId #98",
        "close #108",
        "open #1 /t/b.mrc",
        'open #2 "/t/with space/r.mrc"',
        "turn x 4.500000 models #1 center 0,0,0 coordinateSystem #98",
        "turn y -30.000000 models #1 center 0,0,0 coordinateSystem #98",
        "move 15.000000,-2.500000,-43.000000 models #1 coordinateSystem #98",
        "turn z 72.000000 models #2 center 0,0,0 coordinateSystem #98",
        "move 20.000000,30.000000,-43.000000 models #2 coordinateSystem #98",
        "turn x 20.000000 models #2 center 0,0,0 coordinateSystem #2",
        "vop add #1-2,98 onGrid #98 boundingGrid false modelId #100",
        "volume #100 save /t/o.mrc",
        "close session",
    ]


def test_chimerax_gets_its_own_spelling() -> None:
    files = [Path("/t/m.mrc"), Path("/t/b.mrc"), Path("/t/r.mrc")]
    commands = sum_commands(PARTS, files, Path("/t/o.mrc"), flavour="chimerax")
    assert commands[:4] == [
        "open /t/m.mrc id 108",
        "volume scale #108 factor 1.500 modelId #98",
        "close #108",
        "open /t/b.mrc id 1",
    ]
    assert commands[7:10] == [
        "move x 15.000000 models #1 coordinateSystem #98",
        "move y -2.500000 models #1 coordinateSystem #98",
        "move z -43.000000 models #1 coordinateSystem #98",
    ]
    assert commands[-3:] == [
        "volume add #1-2,98 onGrid #98 boundingGrid false modelId #100",
        "save /t/o.mrc models #100",
        "close session",
    ]


@pytest.mark.parametrize(
    "command",
    ["shell rm x", "runscript a.py", "open a.py; exit", "open a\nexit", "close\u2028x"],
)
def test_only_harmless_commands_are_sent(command: str) -> None:
    with pytest.raises(ConfigError, match="chimera: found"):
        checked(command)


@pytest.mark.parametrize("name", ['a".mrc', "a\\.mrc"])
def test_a_path_that_cannot_be_quoted_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a path without was expected"):
        quoted(Path(name))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_both_programs_give_the_map_that_numpy_gives(
    flavour: Flavour, attached: Callable[..., ChimeraSettings], tmp_path: Path
) -> None:
    settings = attached(Program(flavour), Program(flavour))
    expected = composed(PARTS)
    for found in made(settings, tmp_path, count=3):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 2e-4 * expected.max()


def test_each_stack_has_its_own_maps_from_the_pool_of_the_settings(
    attached: Callable[..., ChimeraSettings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = Program("chimerax")
    settings = attached(program)
    monkeypatch.setenv("EM_TILT_SERIES__CHIMERA__URLS", settings.urls[0])

    def samples(composed_by: str) -> list[Sample]:
        options = {
            "num_rods": 3, "rod_distance_nm": 2, "composed_by": composed_by,
            "positions_nm": [[0, 0, 0], [30, 0, 0]],
        }  # fmt: skip
        plan = Plan(pixel_nm=0.5, assembly=Assembly(kind="t4ss", options=options))
        assembler = assembler_of("t4ss")(plan, (MEMBRANE, BARREL, ROD), tmp_path)
        found = []
        for stack in (0, 1):
            found.append(assembler.set_up_tiltseries(stack))
            assembler.reset_temp_dir()
        assembler.close()
        return found

    # ETSimulations did not wait for the maps of the second stack: its event of the
    # first one was still set, and the maps had the same names.
    for one, other in zip(samples("numpy"), samples("chimera"), strict=True):
        for left, right in zip(one.maps, other.maps, strict=True):
            alike = np.corrcoef(left.potential_v.ravel(), right.potential_v.ravel())
            assert alike[0, 1] > 0.99999
        assert one.facts == other.facts
    assert len(program.commands) > 80
    assert not list(tmp_path.glob("*.mrc"))


@pytest.mark.parametrize("kind", ["hang", "cut"])
def test_a_server_that_hangs_or_breaks_off_is_replaced_and_all_is_done_anew(
    kind: str, attached: Callable[..., ChimeraSettings], tmp_path: Path
) -> None:
    second, first = Program("chimerax"), Program("chimerax")
    # The pool takes the one that is named last.
    fault = Fault(kind, skip=6, times=1, after_bytes=0)  # type: ignore[arg-type]
    none = Fault("missing", path="/nothing")
    settings = attached(second, first, faults=(none, fault), timeout_s=0.5)
    (found,) = made(settings, tmp_path)
    assert np.allclose(found, composed(PARTS), atol=1e-3)
    assert len(first.commands) <= 7
    assert second.commands[:2] == [
        "close session",
        f"open {tmp_path}/whole-0.mrc id 108",
    ]
    assert second.commands[-1] == "close session"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_program_that_dies_is_started_again_and_ended_with_the_pool(
    flavour: Flavour, tmp_path: Path
) -> None:
    script = tmp_path / "chimera"
    script.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "from em_platform.standins.chimera import run_program\n"
        f"run_program(sys.argv[1:], dies_at=8, marker={str(tmp_path / 'died')!r})\n"
    )
    script.chmod(0o755)
    settings = ChimeraSettings(flavour=flavour, program=str(script), start_s=60)
    (found,) = made(settings, tmp_path)
    assert (tmp_path / "died").exists()
    assert np.allclose(found, composed(PARTS), atol=1e-3)
    assert not [
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and str(script) in child.cmdline()
    ]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_an_error_under_status_200_is_one_sentence(
    flavour: Flavour, attached: Callable[..., ChimeraSettings], tmp_path: Path
) -> None:
    files = [tmp_path / "missing.mrc"] * 3
    output = tmp_path / "made.mrc"
    commands = sum_commands(PARTS, files, output, flavour=flavour)
    # Only ChimeraX says in its answer that it failed; else the missing map does.
    words = {"chimera": "there is no made.mrc", "chimerax": "failed: No such file/path"}
    with ChimeraPool(attached(Program(flavour))) as pool:
        with pytest.raises(ToolFailed, match=words[flavour]):
            pool.run(Batch(commands=commands, output=output))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_an_answer_without_a_map_is_one_sentence(
    flavour: Flavour, attached: Callable[..., ChimeraSettings], tmp_path: Path
) -> None:
    saving = "save" if flavour == "chimerax" else "volume"
    settings = attached(Program(flavour, ignoring=(saving,)))
    with pytest.raises(ToolFailed, match=r"there is no made-0\.mrc"):
        made(settings, tmp_path)


class Garbling(Program):
    """Saves a file that is no map."""

    def _save(self, path: str, number: int) -> None:
        Path(path).write_bytes(b"no map")


def test_a_map_that_is_none_is_one_sentence_and_does_not_stay(
    attached: Callable[..., ChimeraSettings], tmp_path: Path
) -> None:
    with pytest.raises(ToolFailed, match=r"made-0\.mrc is no valid MRC"):
        made(attached(Garbling("chimera")), tmp_path)
    assert not (tmp_path / "made-0.mrc").exists()


def test_text_where_json_was_expected_is_one_sentence(tmp_path: Path) -> None:
    with serve(Program("chimerax"), answers_json=False) as server:
        settings = ChimeraSettings(urls=(server.url,))
        with pytest.raises(ToolFailed, match="remotecontrol rest start json true"):
            made(settings, tmp_path)


def test_servers_that_never_answer_end_in_one_sentence(
    attached: Callable[..., ChimeraSettings], tmp_path: Path
) -> None:
    settings = attached(Program("chimera"), faults=(Fault("hang"),), timeout_s=0.2)
    with pytest.raises(ToolFailed, match="none of the servers in tilt_series"):
        made(settings, tmp_path, count=2)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({}, ConfigError, "found neither tilt_series.chimera.program nor .urls"),
        ({"urls": ("http://10.0.0.7:80",)}, ConfigError, "http://127.0.0.1:PORT was"),
        ({"urls": ("https://127.0.0.1:80",)}, ConfigError, "http://127.0.0.1:PORT was"),
        ({"program": "/nowhere/chimera"}, ToolMissing, "found no program /nowhere"),
        ({"program": "/bin/true", "start_s": 5}, ToolFailed, "did not say within 5 s"),
    ],
)
def test_wrong_settings_get_one_sentence(
    fields: dict[str, object], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        made(ChimeraSettings.model_validate(fields), tmp_path)


def test_what_is_opened_in_chimera_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """As Chimera 1.x does, which is why all maps are opened before any is moved."""
    with mrcfile.new(tmp_path / "a.mrc", ROD.potential_v) as file:
        file.voxel_size = 5.0
    old, new = Program("chimera"), Program("chimerax")
    for command in (
        f"open #1 {tmp_path}/a.mrc",
        "move 1,2,3 models #1 coordinateSystem #1",
        f"open #2 {tmp_path}/a.mrc",
    ):
        old.run(command)
    assert old.volumes[2].place[:3, 3].tolist() == [1, 2, 3]
    for command in (
        f"open {tmp_path}/a.mrc id 1",
        "move x 4 models #1 coordinateSystem #1",
        f"open {tmp_path}/a.mrc id 2",
    ):
        new.run(command)
    assert new.volumes[2].place[:3, 3].tolist() == [0, 0, 0]
