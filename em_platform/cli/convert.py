"""`em-platform convert`: any image file or volume into an OME-Zarr."""

import click


@click.command()
@click.argument("source", metavar="INPUT")
@click.argument("output", metavar="OUTPUT.ZARR")
@click.option(
    "--voxel-nm",
    type=(float, float, float),
    metavar="Z Y X",
    help="edges of a voxel, where the file states none",
)
@click.option("--labels", is_flag=True, help="the voxels are labels, not grey levels")
@click.option(
    "--overwrite",
    is_flag=True,
    help="also replace the volume of another INPUT; never other files",
)
def command(
    source: str,
    output: str,
    voxel_nm: tuple[float, float, float] | None,
    labels: bool,
    overwrite: bool,
) -> None:
    """Write INPUT, any image that `inspect` reads, as an OME-Zarr 0.5 with a pyramid.

    INPUT is a file, a folder of images of one plane each, or a URL. Chunks, shards and
    compression are those of the settings `ingest.output`.
    """
    from em_platform.config import load_settings
    from em_platform.ome_zarr import convert
    from em_platform.stitching.compute import keep_freed_memory

    keep_freed_memory()
    written = convert(
        source,
        output,
        settings=load_settings().ingest.output,
        voxel_nm=voxel_nm,
        pooling="mode" if labels else "mean",
        overwrite=overwrite,
    )
    shape = " x ".join(map(str, written.shape))
    click.echo(
        f"{output}: {shape} voxels (z, y, x) of {written.dtype}, "
        f"{len(written.levels)} levels, {written.size_bytes / 2**20:.1f} MiB"
    )
