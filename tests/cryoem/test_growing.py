"""A long table of a project grows at its end, and is whole for whoever reads it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from gemmi import cif

from em_platform.cryoem.project.tables import (
    Row,
    list_particles,
    optics_row,
    put_particles,
    put_rows,
    rows_of,
)

OPTICS = optics_row({}, particles=64)
PAGE = 4096


def stack(number: int) -> str:
    return f"Extract/job005/Movies/FoilHole {number:04}.mrcs"


def particles(number: int, count: int = 300) -> list[Row]:
    """Those of one micrograph, whose name has a space."""
    return [
        {
            "ImageName": f"{n:06}@{stack(number)}",
            **{"CoordinateX": 100.5 + n, "CoordinateY": 7.25, "OpticsGroup": 1},
            **{"DefocusU": 15000.5, "DefocusV": 14000.25, "DefocusAngle": 33.5},
        }
        for n in range(1, count + 1)
    ]


def put(path: Path, *numbers: int, count: int = 300) -> None:
    rows = [row for number in numbers for row in particles(number, count)]
    stacks = {stack(number) for number in numbers}
    put_particles(path, rows, stacks=stacks, optics=OPTICS)


def names(path: Path) -> list[str | float]:
    return [row["ImageName"] for row in rows_of(path, "particles")]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Of 13 micrographs, above what is written whole each time."""
    path = tmp_path / "particles.star"
    put(path, *range(13))
    return path


def test_a_micrograph_is_added_and_the_rest_stays_where_it_is(
    table: Path, tmp_path: Path
) -> None:
    before = table.read_bytes()
    file = table.stat().st_ino
    for number in (13, 14, 13):  # the last one came before
        put(table, number)
    content = table.read_bytes()
    assert (table.stat().st_ino, content[: len(before)]) == (file, before)
    assert names(table) == [r["ImageName"] for n in range(15) for r in particles(n)]
    put(tmp_path / "whole.star", *range(15))
    assert (tmp_path / "whole.star").read_bytes() == content
    # A reader in between has some of the pages, and then whole rows only.
    for end in range(-(-len(before) // PAGE) * PAGE, len(content), PAGE):
        part = cif.read_string(content[:end].decode()).find_block("particles")
        assert len(part.find_loop("_rlnDefocusAngle")) > 3900
    found = list_particles(table, {stack(13)})
    assert (found.total, found.first_stack) == (4500, stack(0))
    assert [at for at, _ in found.images] == list(range(3900, 4200))
    assert found.images[1][1] == f"000002@{stack(13)}"


def test_fewer_particles_or_more_columns_write_it_anew(table: Path) -> None:
    put(table, 5, count=2)
    assert list_particles(table, {stack(5)}).total == 12 * 300 + 2
    row = particles(20, 1)[0] | {"PhaseShift": 1.5}
    put_particles(table, [row], stacks={stack(20)}, optics=OPTICS)
    put(table, 21)
    found = rows_of(table, "particles")
    assert [found[n]["PhaseShift"] for n in (0, 3602, 3603)] == ["None", "1.5", "None"]


def cut_short(path: Path) -> None:
    """As a writer leaves it that is killed within a micrograph."""
    os.truncate(path, path.stat().st_size // PAGE * PAGE)


def without_a_row(path: Path) -> None:
    """As another program writes it."""
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:50], *lines[51:], ""]))


def without_index(path: Path) -> None:
    """As a writer leaves it that is killed before it had written the index."""
    path.with_name(f".{path.name}.index").unlink()


@pytest.mark.parametrize("change", [cut_short, without_a_row, without_index])
def test_what_was_left_half_done_or_changed_is_repaired(
    table: Path, change: Callable[[Path], None]
) -> None:
    put(table, 13)
    wanted = table.read_bytes()
    change(table)
    for number in range(14):  # all messages come again
        put(table, number)
    assert sorted(names(table)) == sorted(
        row["ImageName"] for n in range(14) for row in particles(n)
    )
    if change is not without_a_row:
        assert table.read_bytes() == wanted


def test_rows_of_micrographs_grow_too(tmp_path: Path) -> None:
    path = tmp_path / "micrographs_ctf.star"

    def row(number: int, defocus: float = 15000.0) -> Row:
        name = f"MotionCorr/job002/Movies/FoilHole_{number:05}_fractions.mrc"
        return {"MicrographName": name, "CtfImage": f"{name}:mrc", "DefocusU": defocus}

    put_rows(path, "micrographs", [row(n) for n in range(2500)], optics=OPTICS)
    file = path.stat().st_ino
    put_rows(path, "micrographs", [row(2500)], optics=OPTICS)
    assert path.stat().st_ino == file
    put_rows(path, "micrographs", [row(7, 9.0)], optics=OPTICS)  # fitted again
    found = rows_of(path, "micrographs")
    assert [found[n]["DefocusU"] for n in (6, 7, 2500)] == ["15000", "9", "15000"]
    assert len(found) == 2501
