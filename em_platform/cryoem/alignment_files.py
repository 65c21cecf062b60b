"""Alignments of tilt series as files: IMOD's .xf and .tlt, AreTomo's .aln; both ways.

A line of .xf is `A11 A12 A21 A22 DX DY`: from the raw image to one whose tilt axis is
upright, about the middles of both (https://bio3d.colorado.edu/imod/doc/man/xfalign.html).
A line of .aln has the turn of the axis and where the specimen's middle lies on the raw
image (TX, TY), as AreTomo2 and 3 write and read it: `DX, DY = -A (TX, TY)`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from em_platform.cryoem.tilt_series import read_angles
from em_platform.errors import FormatError
from em_platform.formats import read_text
from em_platform.storage import atomic

_ALN_COLUMNS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedImage:
    """How one section of a stack, counted from 0, was taken."""

    section: int
    angle_deg: float
    dx_px: float
    dy_px: float
    """Where the specimen's middle lies from that of the image."""
    rotation_deg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesAlignment:
    """The images of a stack that count, and what is known of the specimen."""

    images: tuple[AlignedImage, ...]
    excluded: tuple[tuple[int, float], ...] = ()
    """Section and angle of those that do not count."""
    offset_deg: float = 0.0
    thickness_px: float | None = None


def write_xf(path: Path, images: Sequence[AlignedImage], *, sections: int) -> None:
    """Write a line for each section; one that does not count is left as it is."""
    by_section = {image.section: image for image in images}
    lines = []
    for section in range(sections):
        image = by_section.get(section)
        turn = np.deg2rad(image.rotation_deg) if image else 0.0
        cos, sin = float(np.cos(turn)), float(np.sin(turn))
        dx, dy = (image.dx_px, image.dy_px) if image else (0.0, 0.0)
        moved = -(cos * dx + sin * dy), -(cos * dy - sin * dx)
        lines.append(
            f"{cos:12.7f}{sin:12.7f}{-sin:12.7f}{cos:12.7f}"
            f"{moved[0] + 0.0:12.3f}{moved[1] + 0.0:12.3f}"
        )
    _write(path, lines)


def write_angles(path: Path, angles_deg: Sequence[float]) -> None:
    """Write an angle a line, as IMOD has them in .tlt and .rawtlt."""
    _write(path, [f"{angle:8.2f}" for angle in angles_deg])


def write_aln(
    path: Path,
    images: Sequence[AlignedImage],
    *,
    shape: tuple[int, int, int],
    excluded: Sequence[tuple[int, float]],
    offset_deg: float,
    thickness_px: float | None,
) -> None:
    """Write AreTomo's alignment of a stack `(n, h, w)`; `excluded`: section, angle."""
    count, height, width = shape
    lines = [
        "# AreTomo Alignment / Priims bprmMn",
        f"# RawSize = {width} {height} {count}",
        "# NumPatches = 0",
        *(f"# DarkFrame = {s:5d} {s:5d} {angle:9.2f}" for s, angle in excluded),
        f"# AlphaOffset = {offset_deg:8.2f}",
        "# BetaOffset =     0.00",
        *([] if thickness_px is None else [f"# Thickness = {round(thickness_px)}"]),
        "# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE"
        "     BASE     TILT",
    ]
    lines += [
        f"{i.section:5d}  {i.rotation_deg:9.4f}  {1:8.5f} {i.dx_px:10.3f} "
        f"{i.dy_px:10.3f} {1:8.2f} {1:8.2f} {1:8.2f} {0:8.2f} {i.angle_deg:9.2f}"
        for i in images
    ]
    _write(path, lines)


def write_tilt_com(
    path: Path,
    *,
    name: str,
    shape: tuple[int, int, int],
    thickness_px: float,
    excluded: Sequence[int],
) -> None:
    """Write the command file of IMOD's tilt for the aligned stack `NAME.ali`."""
    lines = tilt_lines(
        name=name, shape=shape, thickness_px=thickness_px, excluded=excluded
    )
    _write(path, ["$tilt -StandardInput", *lines])


def tilt_lines(
    *,
    name: str,
    shape: tuple[int, int, int],
    thickness_px: float,
    excluded: Sequence[int],
    binning: int = 1,
    radial: tuple[float, float] = (0.35, 0.035),
) -> list[str]:
    """What IMOD's tilt reads from its standard input; lengths are not binned."""
    lines = [
        f"InputProjections {name}.ali",
        f"OutputFile {name}.rec",
        f"IMAGEBINNED {binning}",
        f"TILTFILE {name}.tlt",
        f"THICKNESS {round(thickness_px)}",
        f"RADIAL {radial[0]:g} {radial[1]:g}",
        "FalloffIsTrueSigma 1",
        "XAXISTILT 0.0",
        "PERPENDICULAR",
        "MODE 2",
        f"FULLIMAGE {shape[2]} {shape[1]}",
    ]
    if excluded:
        lines.append(
            "EXCLUDELIST " + ",".join(str(section + 1) for section in excluded)
        )
    return lines


def read_alignment(path: Path) -> SeriesAlignment:
    """The alignment in an `.aln`, or in an `.xf` with its `.tlt` beside it.

    Sections that `tilt.com` beside an `.xf` excludes do not count.

    Raises
    ------
    FormatError
        There is none in this file, or its angles are not those of its lines.
    """
    return _read_xf(path) if path.suffix == ".xf" else _read_aln(path)


def _read_aln(path: Path) -> SeriesAlignment:
    rows: list[list[float]] = []
    dark: list[tuple[int, float]] = []
    known: dict[str, float] = {}
    try:
        for line in read_text(str(path)).splitlines():
            words = line.split()
            if line.startswith("#"):
                key, _, value = line.lstrip("# ").partition("=")
                numbers = value.split()
                if key.strip() == "DarkFrame":
                    dark.append((int(numbers[1]), float(numbers[2])))
                elif numbers:
                    known[key.strip()] = float(numbers[-1])
            elif len(words) >= _ALN_COLUMNS:  # local shifts, below, have fewer
                rows.append([float(word) for word in words[:_ALN_COLUMNS]])
        sections = [int(row[0]) for row in rows] + [section for section, _ in dark]
    except (ValueError, IndexError, OverflowError) as error:
        raise _unreadable(path, str(error)) from error
    if not rows:
        raise _unreadable(path, "no line of ten numbers")
    # AreTomo3 counts from 1 since 2.0, all before it from 0; the last number of
    # RawSize is that of all sections.
    base = int(min(sections) > 0 and max(sections) >= known.get("RawSize", np.inf))
    return SeriesAlignment(
        images=tuple(
            AlignedImage(
                section=int(row[0]) - base,
                rotation_deg=row[1],
                dx_px=row[3],
                dy_px=row[4],
                angle_deg=row[9],
            )
            for row in rows
        ),
        excluded=tuple((section - base, angle) for section, angle in dark),
        offset_deg=known.get("AlphaOffset", 0.0),
        thickness_px=known.get("Thickness"),
    )


def _read_xf(path: Path) -> SeriesAlignment:
    try:
        rows = [
            [float(word) for word in line.split()]
            for line in read_text(str(path)).splitlines()
            if line.strip()
        ]
        table = np.array(rows, float).reshape(-1, 6)
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    beside = [path.with_suffix(end) for end in (".tlt", ".rawtlt")]
    file = next((each for each in beside if each.is_file()), None)
    angles = read_angles(file) if file else []
    if len(angles) != len(table):
        raise FormatError(
            f"{path}: found {len(table)} lines, {len(angles)} angles in "
            f"{(file or beside[0]).name} beside it; put the angles of this stack there"
        )
    excluded = _excluded(path.with_name("tilt.com"))
    images = []
    for section, (row, angle) in enumerate(zip(table, angles, strict=True)):
        if section in excluded:
            continue
        try:
            dx, dy = -np.linalg.solve(row[:4].reshape(2, 2), row[4:])
        except np.linalg.LinAlgError as error:
            why = f"line {section + 1} turns the image into a line"
            raise _unreadable(path, why) from error
        images.append(
            AlignedImage(
                section=section,
                angle_deg=angle,
                dx_px=float(dx),
                dy_px=float(dy),
                rotation_deg=float(np.rad2deg(np.arctan2(row[1], row[0]))),
            )
        )
    left_out = tuple((i, angles[i]) for i in sorted(excluded) if i < len(angles))
    return SeriesAlignment(images=tuple(images), excluded=left_out)


def _excluded(path: Path) -> set[int]:
    """Sections from 0 that a tilt.com excludes; IMOD's lists are such as `1,3-5`."""
    if not path.is_file():
        return set()
    found: set[int] = set()
    pattern = r"^EXCLUDELIST2?[ \t]+([\d, \t-]+)$"
    for match in re.finditer(pattern, read_text(str(path)), re.MULTILINE | re.I):
        for part in "".join(match[1].split()).strip(",").split(","):
            first, _, last = part.partition("-")
            if first.isdigit():
                found.update(range(int(first) - 1, int(last or first)))
    return found


def _write(path: Path, lines: Sequence[str]) -> None:
    atomic.write_bytes(path, ("\n".join(lines) + "\n").encode())


def _unreadable(path: Path, reason: str) -> FormatError:
    return FormatError(
        f"{path}: cannot be read as an alignment ({reason}); give AreTomo's .aln or "
        "IMOD's .xf, or align the series again"
    )
