"""`em-platform inspect`: what an image is, or why it cannot be read."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from em_platform.cli.console_output import own_fault
from em_platform.errors import PlatformError
from em_platform.model.sentences import counted
from em_platform.model.volume import Tag, VolumeInfo

if TYPE_CHECKING:
    from em_platform.formats import TableFile
    from em_platform.storage.layout import StorageOptions

    Found = VolumeInfo | TableFile | PlatformError

_UNITS = (("mm", 1e6), ("µm", 1e3), ("nm", 1.0))
_SIZES = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


@click.command()
@click.argument("uris", metavar="FILE|URL...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="print JSON, one object a line")
@click.option(
    "--endpoint",
    metavar="URL",
    help="the server of s3:// addresses; without it AWS, or that of the settings",
)
def command(uris: tuple[str, ...], as_json: bool, endpoint: str | None) -> None:
    """Show what each FILE or URL is: shape (z, y, x), type, voxel size, tags.

    Reads DM3 and DM4, MRC, TIFF of scanning electron microscopes, ImageJ and OME, PNG,
    JPEG, folders of them, OME-Zarr, Zarr, N5 and precomputed volumes; of large ones
    only what describes them. Of tables (SerialEM's mdoc, STAR, `.cs` of cryoSPARC) it
    shows rows and columns. Ends with status 1 when one cannot be read.
    """
    failed = False
    for number, uri in enumerate(uris):
        found = _inspect(uri, endpoint)
        failed = failed or isinstance(found, PlatformError)
        # One that cannot be read does not keep the others from being shown.
        if as_json:
            _print_json(uri, found)
            continue
        if number:
            click.echo()  # a gap between files
        _print(uri, found)
    if failed:
        sys.exit(1)


def _inspect(uri: str, endpoint: str | None) -> "Found":
    from em_platform.formats import inspect, inspect_tables, is_table_file

    try:
        if is_table_file(uri):
            return inspect_tables(uri)
        return inspect(uri, _options(uri, endpoint))
    except PlatformError as error:
        return error
    except Exception as error:
        # The other files are shown, and as JSON each has its line.
        return own_fault(error)


def _options(uri: str, endpoint: str | None) -> "StorageOptions":
    """The store's options: given, those of our own store, those of a public bucket."""
    if not uri.startswith("s3://"):
        return {}
    if endpoint is not None:
        return {"endpoint_url": endpoint, "anon": True}
    from em_platform.config import load_settings
    from em_platform.storage import store_of

    settings = load_settings()
    root = settings.storage.root
    # With the slash, as `s3://em` does not hold `s3://em-2`.
    if root.startswith("s3://") and f"{uri}/".startswith(f"{root.rstrip('/')}/"):
        return store_of(settings).options
    public = settings.ingest.openorganelle
    if public.endpoint_url and uri.startswith(public.bucket_url):
        return {"endpoint_url": public.endpoint_url, "anon": True}
    # A public bucket; else the client looks for credentials for seconds.
    return {"anon": True}


def _print_json(uri: str, found: "Found") -> None:
    from em_platform.formats import described

    if isinstance(found, PlatformError):
        content = {"uri": uri, "error": str(found), "kind": type(found).__name__}
    elif isinstance(found, VolumeInfo):
        content = described(found)
    else:
        content = found.model_dump(mode="json")
    click.echo(json.dumps(content, ensure_ascii=False))


def _print(uri: str, found: "Found") -> None:
    if isinstance(found, PlatformError):
        click.echo(f"em-platform: {found}", err=True)
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(uri)}[/bold]")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    rows = _rows(found) if isinstance(found, VolumeInfo) else _rows_of_tables(found)
    for name, value in rows:
        table.add_row(f"  {name}", escape(value))
    console.print(table)


def _rows(info: VolumeInfo) -> list[tuple[str, str]]:
    from em_platform.formats import extent_nm

    rows = [
        ("format", info.format),
        ("shape", f"{_by(info.shape)} voxels (z, y, x)"),
        ("dtype", info.dtype),
    ]
    if info.voxel_size_nm is None:
        voxel_size = "not stated"
    elif not info.voxel_size_nm[0]:
        voxel_size = f"{_by(info.voxel_size_nm[1:])} nm (y, x); none is stated along z"
    else:
        voxel_size = f"{_by(info.voxel_size_nm)} nm (z, y, x)"
    rows.append(("voxel size", voxel_size))
    # An edge of 0 is one that the file does not state.
    extent = extent_nm(info)
    if extent is not None:
        rows.append(("extent", " x ".join(_length(edge) for edge in extent if edge)))
    if any(info.origin_nm):
        rows.append(("origin", f"{_by(info.origin_nm)} nm (z, y, x)"))
    if info.chunk_shape is not None:
        rows.append(("chunks", _by(info.chunk_shape)))
    if info.levels > 1:
        rows.append(("levels", str(info.levels)))
    size = "not counted" if info.size_bytes is None else _size(info.size_bytes)
    rows.append(("size", f"{size}, {_size(info.pixel_bytes)} of voxels"))
    return rows + _tags(info.tags)


def _rows_of_tables(found: "TableFile") -> list[tuple[str, str]]:
    rows = [("format", found.format)]
    for table in found.tables:
        named = f"{counted(table.rows, 'row')} of {', '.join(table.columns)}"
        rows.append((f"table {table.name}", named))
    return rows + _tags(found.tags)


def _tags(tags: dict[str, Tag]) -> list[tuple[str, str]]:
    rows = []
    for name, value in tags.items():
        texts = value if isinstance(value, tuple) else (value,)
        rows += [("" if i else name, _text(text)) for i, text in enumerate(texts)]
    return rows


def _text(value: Any) -> str:
    # 15 digits are those that every double keeps (`sys.float_info.dig`).
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _by(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.15g}" for value in values)


def _length(edge_nm: float) -> str:
    name, factor = next((u for u in _UNITS if edge_nm >= u[1]), _UNITS[-1])
    return f"{edge_nm / factor:.4g} {name}"


def _size(count: int) -> str:
    for name, factor in _SIZES:
        if count >= factor:
            return f"{count / factor:.1f} {name}"
    return f"{count} bytes"
