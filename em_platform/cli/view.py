"""`em-platform view`: a mosaic in the browser."""

import threading
import webbrowser
from typing import Any

import click

from em_platform.config import load_settings
from em_platform.errors import ConfigError

_UNITS = {"": "", "nanometer": "nm", "micrometer": "um"}
_PANEL_PX = (600, 1000)


@click.command()
@click.argument("image", metavar="X.zarr")
@click.option(
    "--browser/--no-browser",
    default=True,
    show_default=True,
    help="open the page in the browser, or only print its address",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="TCP port of the page on 127.0.0.1; without it a free one",
)
def command(image: str, browser: bool, port: int) -> None:
    """Open the OME-Zarr image at X.zarr, a path or URL, in Neuroglancer.

    Works without internet; serves the page and the image from this machine, to this
    machine only, until Ctrl-C.
    """
    from em_platform.formats.http import served

    options = _options(image)
    shape, edge = _measure(image, options)
    with served(image, storage_options=options) as address:
        # Kept in a name: Neuroglancer's server only remembers viewers that are in use.
        viewer = _open_viewer(address, shape=shape, edge=edge, port=port)
        page = viewer.get_viewer_url()
        click.echo(f"{image} is at {page} until Ctrl-C")
        if browser:
            webbrowser.open(page)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("closed")


def _options(image: str) -> dict[str, Any]:
    if not image.startswith("s3://"):
        return {}
    from em_platform.storage import store_of

    settings = load_settings()
    storage = settings.storage.model_copy(update={"root": image})
    return store_of(settings.model_copy(update={"storage": storage})).options


def _measure(
    image: str, options: dict[str, Any]
) -> tuple[tuple[int, ...], tuple[float, str]]:
    from em_platform.formats.ome_zarr import open_level, pixel_edge

    edge = pixel_edge(image, storage_options=options)
    return tuple(open_level(image, 0, storage_options=options).shape), edge


def _open_viewer(
    address: str, *, shape: tuple[int, ...], edge: tuple[float, str], port: int
) -> Any:
    """A Neuroglancer viewer that shows the whole image."""
    import neuroglancer

    neuroglancer.set_server_bind_address("127.0.0.1", port)
    try:
        viewer = neuroglancer.Viewer()
    except OSError as error:
        raise ConfigError(
            f"view: port {port} cannot be used ({error.strerror}), expected a free "
            "one; leave --port out or name another"
        ) from error
    height, width = shape[-2:]
    with viewer.txn() as state:
        state.layers["mosaic"] = neuroglancer.ImageLayer(source=f"zarr3://{address}")
        state.layout = "xy"
        state.show_axis_lines = False
        if len(shape) == 2 and edge[1] in _UNITS:
            state.dimensions = neuroglancer.CoordinateSpace(
                names=["x", "y"], scales=[edge[0]] * 2, units=[_UNITS[edge[1]]] * 2
            )
            state.position = [width / 2, height / 2]
            state.cross_section_scale = max(width / _PANEL_PX[1], height / _PANEL_PX[0])
    return viewer
