"""`em-platform view`: a mosaic or a volume in the browser."""

import threading
import webbrowser
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from em_platform.config import load_settings
from em_platform.errors import ConfigError

if TYPE_CHECKING:
    from em_platform.formats import Described
    from em_platform.storage.layout import StorageOptions

_UNITS = {"": "", "nanometer": "nm", "micrometer": "um"}
_PANEL_PX = (600, 1000)  # height and width of the page on a small laptop
# `invlerp` takes its range from `shader_controls` below.
_SHADER = "#uicontrol invlerp normalized\nvoid main() { emitGrayscale(normalized()); }"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What is shown: the axes `x y` or `x y z`, and where in them."""

    names: list[str]
    edges: list[float]
    units: list[str]
    lengths: list[int]
    centre: list[float]
    has_labels: bool
    grey_range: tuple[float, float] | None

    @property
    def is_in_px(self) -> bool:
        """Whether no length of a pixel is known."""
        return not any(self.units)


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
    from em_platform.formats import review_at
    from em_platform.ome_zarr import served
    from em_platform.storage import options_of

    options = options_of(image, load_settings())
    shown = _measure(image, options)
    with served(image, storage_options=options) as address:
        # Kept in a name: Neuroglancer's server only remembers viewers that are in use.
        viewer = _open_viewer(address, shown, port=port)
        page = viewer.get_viewer_url()
        click.echo(f"{image} is at {page} until Ctrl-C")
        if shown.is_in_px:
            click.echo(
                "pixel size unknown: places are in px, and no scale bar is shown"
            )
        review = review_at(image, options=options)
        if review is not None and not review.passed:
            click.echo(f"needs review: {' '.join(review.reasons)}")
        if browser:
            webbrowser.open(page)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("closed")


def _measure(url: str, options: "StorageOptions") -> _Shown:
    from em_platform.formats import describe, open_level

    image = describe(url, storage_options=options)
    level = open_level(url, 0, storage_options=options)
    axes = range(len(level.shape))[::-1][:3]
    places = [image.origins[0][i] / image.scales[0][i] for i in axes]
    return _Shown(
        names=[image.axes[i] for i in axes],
        edges=[image.scales[0][i] for i in axes],
        units=[image.units[i] for i in axes],
        lengths=[level.shape[i] for i in axes],
        centre=[
            place + level.shape[i] / 2 for i, place in zip(axes, places, strict=True)
        ],
        has_labels=image.kind in ("mode", "nearest"),
        grey_range=_grey_range(url, image, options),
    )


def _grey_range(
    url: str, image: "Described", options: "StorageOptions"
) -> tuple[float, float] | None:
    """What is black and white; None for 8 bits, which are shown as they are."""
    import numpy as np

    from em_platform.formats import open_level, read_pixels

    # The smallest level: the range of a montage of gigabytes in a moment.
    smallest = open_level(url, len(image.scales) - 1, storage_options=options)
    if smallest.dtype == np.uint8:
        return None
    grey = read_pixels(url, smallest).astype(np.float64)
    grey = grey[np.isfinite(grey)]
    low, high = np.percentile(grey, (1.0, 99.0)) if grey.size else (0.0, 1.0)
    # An even image has no range, and the shader would divide by 0.
    return float(low), float(max(high, low + 1e-6))


def _open_viewer(address: str, shown: _Shown, *, port: int) -> Any:
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
    is_volume = len(shown.names) == 3 and shown.lengths[2] > 1
    with viewer.txn() as state:
        _add_layer(state, f"zarr3://{address}", shown)
        state.layout = "4panel" if is_volume else "xy"
        state.show_axis_lines = is_volume
        # Neuroglancer knows units of SI alone: its bar would be of 300 of nothing.
        state.show_scale_bar = not shown.is_in_px
        if all(unit in _UNITS for unit in shown.units):
            state.dimensions = neuroglancer.CoordinateSpace(
                names=shown.names,
                scales=shown.edges,
                units=[_UNITS[unit] for unit in shown.units],
            )
            state.position = shown.centre
            width, height = shown.lengths[:2]
            panels = 2 if is_volume else 1
            scale = max(width / _PANEL_PX[1], height / _PANEL_PX[0]) * panels
            state.cross_section_scale = scale
            if is_volume:  # half as much room around it, as it can be turned
                # The longest side, in units of the finest voxel.
                sides = zip(shown.lengths, shown.edges, strict=True)
                longest = max(length * edge for length, edge in sides)
                state.projection_scale = 1.5 * longest / min(shown.edges)
    return viewer


def _add_layer(state: Any, source: str, shown: _Shown) -> None:
    import neuroglancer

    suffix = " (px)" if shown.is_in_px else ""
    if shown.has_labels:
        state.layers[f"labels{suffix}"] = neuroglancer.SegmentationLayer(source=source)
    elif shown.grey_range is None:
        name = "mosaic" if len(shown.names) == 2 else "volume"
        state.layers[f"{name}{suffix}"] = neuroglancer.ImageLayer(source=source)
    else:
        state.layers[f"volume{suffix}"] = neuroglancer.ImageLayer(
            source=source,
            shader=_SHADER,
            shader_controls={"normalized": {"range": list(shown.grey_range)}},
        )
