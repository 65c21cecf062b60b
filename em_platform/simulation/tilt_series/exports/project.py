"""The files of a project by their names: text, bytes, or a link to the images."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Row = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link in the place of a copy: stacks are large."""

    to: Path


Entry = str | bytes | Link


def write_project(folder: Path, files: Mapping[str, Entry], *, target: Path) -> None:
    """Write the files into `folder`, which is to become `target`."""
    for name, entry in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, Link):
            # Relative: a data set that is moved as a whole keeps its projects.
            path.symlink_to(relative(entry.to, (target / name).parent))
        elif isinstance(entry, bytes):
            path.write_bytes(entry)
        else:
            path.write_text(entry)


def relative(path: Path, folder: Path) -> str:
    """How a file is named from a folder."""
    return os.path.relpath(path.absolute(), folder.absolute())


def lines(each: Sequence[str]) -> str:
    """Lines of a file, the last one ended too."""
    return "\n".join([*each, ""])


def star(blocks: Mapping[str, Sequence[Row]]) -> str:
    """A STAR file of tables; all rows of a block have the same names.

    Source: Hall, Allen & Brown, J. Chem. Inf. Comput. Sci. 31, 326 (1991).
    """
    text = ["# version 50001"]
    for block, rows in blocks.items():
        text += ["", f"data_{block}", "", "loop_"]
        text += [f"_{name} #{number}" for number, name in enumerate(rows[0], 1)]
        text += [" ".join(_shown(value) for value in row.values()) for row in rows]
    return lines([*text, ""])


def _shown(value: str | int | float) -> str:
    if isinstance(value, str):
        return f'"{value}"' if " " in value else value
    return f"{value:.6f}" if isinstance(value, float) else str(value)
