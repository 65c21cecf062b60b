"""Classes as files: RELION's tables of particles and of classes, and a picture."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from gemmi import cif
from PIL import ImageDraw

from em_platform.cryoem.methods.averages2d import Average
from em_platform.cryoem.methods.classify2d import Classes
from em_platform.cryoem.methods.particle_star import OpticsGroup, Particles, star_of
from em_platform.cryoem.methods.pictures import encoded, faint
from em_platform.cryoem.methods.star_text import table, word

_FOUND = (
    "ClassNumber", "AnglePsi", "OriginXAngst", "OriginYAngst",
    "MaxValueProbDistribution",
)  # fmt: skip
_IN_JOB = re.compile(r"[^/@]+/job\d+/")
_TILE_PX, _MOST_COLUMNS, _TEXT_PX = 128, 10, 14


def particles_with_classes(
    tables: Sequence[Particles],
    found: Classes,
    *,
    numbers: Mapping[int, int],
    pixel_a: float,
    folder: Path,
) -> bytes:
    """The rows of all tables with class, angle and offset as RELION has them.

    Stacks of the RELION project that `folder` lies in have their names within it,
    others whole paths. RELION moves a particle by its origin and then turns it by psi
    onto the average.
    """
    columns = [name for name in tables[0].columns if name not in _FOUND]
    rows = []
    place = 0
    for each in tables:
        at = {name: i for i, name in enumerate(each.columns)}
        for (number, stack), row in zip(each.images, each.rows, strict=True):
            kept = [row[at[name]] if name in at else "0" for name in columns]
            name = _name_within(row[at["ImageName"]], stack, folder=folder)
            kept[columns.index("ImageName")] = word(f"{number + 1:06d}@{name}")
            angle = float(found.angles_deg[place])
            c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
            dy, dx = found.shifts[place] * pixel_a
            # The particle is at its average's shift, turned with it.
            origin_x, origin_y = -(c * dx - s * dy), -(s * dx + c * dy)
            psi = (angle + 180) % 360 - 180
            rows.append(
                [
                    *kept,
                    str(numbers[int(found.classes[place])]),
                    *(f"{value:.4f}" for value in (psi, origin_x, origin_y)),
                    f"{found.probability[place]:.6f}",
                ]
            )
            place += 1
    return star_of([*columns, *_FOUND], rows, optics=tables[0].optics)


def _name_within(image: str, stack: Path, *, folder: Path) -> str:
    name = cif.as_string(image).partition("@")[2]
    project = Path(str(stack).removesuffix(name))
    is_within = _IN_JOB.match(name) and folder.is_relative_to(project)
    return name if is_within else str(stack)


def classes_star(
    averages: Sequence[Average], stack: str, *, optics: OpticsGroup
) -> bytes:
    """Blocks `model_general` and `model_classes`, the best known of RELION's."""
    general = {
        "ReferenceDimensionality": "2",
        "OriginalImageSize": str(averages[0].image.shape[0]),
        "PixelSize": f"{optics.pixel_size_a:.6f}",
        "NrClasses": str(len(averages)),
    }
    text = "data_model_general\n\n"
    text += "".join(f"_rln{name} {value}\n" for name, value in general.items())
    total = sum(each.particles for each in averages)
    rows = [
        [
            word(f"{number:06d}@{stack}"),
            f"{each.particles / total:.6f}",
            "inf" if each.resolution_a is None else f"{each.resolution_a:.4f}",
        ]
        for number, each in enumerate(averages, 1)
    ]
    columns = ["ReferenceImage", "ClassDistribution", "EstimatedResolution"]
    return (text + "\n" + table("model_classes", columns, rows, prefix="_rln")).encode()


def class_picture(averages: Sequence[Average]) -> bytes:
    """A JPEG of all averages, the largest class first, each with its particles."""
    columns = min(_MOST_COLUMNS, len(averages))
    rows = -(-len(averages) // columns)
    sheet = PIL.Image.new("L", (columns * _TILE_PX, rows * (_TILE_PX + _TEXT_PX)))
    pen = ImageDraw.Draw(sheet)
    for number, each in enumerate(averages):
        levels = faint(each.image, of=f"class {number + 1}")
        row, column = divmod(number, columns)
        x, y = column * _TILE_PX, row * (_TILE_PX + _TEXT_PX)
        if levels is not None:
            tile = PIL.Image.fromarray(levels).resize((_TILE_PX, _TILE_PX))
            sheet.paste(tile, (x, y))
        pen.text((x + 2, y + _TILE_PX), f"{number + 1}: {each.particles}", fill=255)
    return encoded(sheet, ".jpeg")
