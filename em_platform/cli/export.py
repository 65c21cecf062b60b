"""`em-platform export`: an OME-Zarr mosaic or volume as TIFF, MRC or PNG."""

from pathlib import Path

import click

from em_platform.model.sentences import size_of


@click.command()
@click.argument("image", metavar="IMAGE.ZARR")
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--level", type=click.IntRange(min=0), default=0, help="0 is the full resolution"
)
@click.option(
    "--crop",
    type=click.IntRange(min=0),
    nargs=4,
    metavar="LEFT TOP WIDTH HEIGHT",
    help="only this part, in pixels of the level",
)
@click.option(
    "--plane", type=click.IntRange(min=0), help="only this plane; 0 is the first"
)
@click.option(
    "--overwrite", is_flag=True, help="also replace another file of em-platform's"
)
def command(
    image: str,
    target: Path,
    level: int,
    crop: tuple[int, int, int, int] | None,
    plane: int | None,
    overwrite: bool,
) -> None:
    """Write a mosaic or volume as an OME-TIFF with its pixel size, an MRC, or a PNG.

    FILE ends in .tif, .tiff, .mrc or .png. A TIFF has the coarser levels, too, and is
    a BigTIFF where it is larger than 4 GB; Fiji opens it. An MRC has the size in Å.
    """
    from em_platform.ome_zarr import export

    shape = export(
        image, target, level=level, crop=crop, plane=plane, overwrite=overwrite
    )
    click.echo(f"{target}: {size_of(shape)} of level {level}")
