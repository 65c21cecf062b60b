"""Zarr and OME-Zarr say where each level lies in space."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.chunked import list_levels, open_chunked
from em_platform.formats.chunked.count import count_chunks
from tests.formats.chunk_writers import (
    SHAPE,
    multiscales,
    noise,
    pixels,
    write_v2,
    write_v3,
)
from tests.formats.served_folder import serving_folder


def test_each_level_has_its_own_voxel_size(tmp_path: Path) -> None:
    for n in range(3):
        write_v2(tmp_path / f"image/s{n}", noise()[:: 2**n, :: 2**n, :: 2**n])
    attributes = {"multiscales": [multiscales(3, version="0.4")]}
    (tmp_path / "image/.zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "image/.zattrs").write_text(json.dumps(attributes))
    url = str(tmp_path / "image")
    assert [(level.path, level.voxel_size_nm) for level in list_levels(url)] == [
        ("s0", (2.96, 4.0, 4.0)),
        ("s1", (5.92, 8.0, 8.0)),
        ("s2", (11.84, 16.0, 16.0)),
    ]
    for level in (1, "s1"):
        info = open_chunked(url, level=level).info
        assert info.format == "OME-Zarr 0.4"
        assert (info.voxel_size_nm, info.levels) == ((5.92, 8.0, 8.0), 3)
    # The address of an array finds what its group says.
    alone = open_chunked(f"{url}/s2").info
    assert (alone.voxel_size_nm, alone.origin_nm) == ((11.84, 16.0, 16.0), (1.48, 4, 0))


def test_a_crop_keeps_its_place_in_space(tmp_path: Path) -> None:
    truth = noise()
    write_v3(tmp_path / "image/s0", truth, chunks=(8, 8, 8))
    ome = {"version": "0.5", "multiscales": [multiscales(1)]}
    zarr.open_group(tmp_path / "image", mode="a").attrs["ome"] = ome
    volume = open_chunked(str(tmp_path / "image"), crop=((2, 3, 4), (10, 20, 30)))
    assert volume.info.format == "OME-Zarr 0.5"
    assert volume.info.shape == (10, 20, 30)
    assert volume.info.origin_nm == (1.48 + 2 * 2.96, 12.0, 16.0)
    assert np.array_equal(pixels(volume), truth[2:12, 3:23, 4:34])


@pytest.mark.parametrize(
    ("unit", "voxel_nm"),
    [
        ("nanometer", (2.96, 4.0, 4.0)),
        ("angstrom", (0.296, 0.4, 0.4)),
        ("micrometer", (2960.0, 4000.0, 4000.0)),
        ("furlong", None),
    ],
)
def test_units_become_nm(unit: str, voxel_nm: Any, tmp_path: Path) -> None:
    write_v3(tmp_path / "image/s0", noise(), chunks=(8, 8, 8))
    ome = {"version": "0.5", "multiscales": [multiscales(1, unit=unit)]}
    zarr.open_group(tmp_path / "image", mode="a").attrs["ome"] = ome
    assert open_chunked(str(tmp_path / "image")).info.voxel_size_nm == voxel_nm


def five_axes(folder: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    truth = noise(shape=shape)
    write_v2(folder / "0", truth, chunks=(1, 1, 8, 8, 8))
    units = {"t": {}, "c": {}}
    axes = [{"name": n, **units.get(n, {"unit": "micrometer"})} for n in "tczyx"]
    scale = [1.0, 1.0, 0.5, 0.36, 0.36]
    dataset = {
        "path": "0",
        "coordinateTransformations": [{"type": "scale", "scale": scale}],
    }
    image = {"version": "0.4", "axes": axes, "datasets": [dataset]}
    (folder / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
    return truth


def test_single_times_and_channels_are_dropped(tmp_path: Path) -> None:
    truth = five_axes(tmp_path, (1, 1, *SHAPE))
    volume = open_chunked(str(tmp_path))
    assert volume.info.voxel_size_nm == (500.0, 360.0, 360.0)
    assert volume.info.chunk_shape == (8, 8, 8)
    assert np.array_equal(pixels(volume), truth[0, 0])


def test_of_several_channels_one_is_chosen_by_option(tmp_path: Path) -> None:
    truth = five_axes(tmp_path, (1, 3, *SHAPE))
    with pytest.raises(FormatError, match=r"3 places along c.*option channel"):
        open_chunked(str(tmp_path))
    with pytest.raises(FormatError, match="from 0 to 2"):
        open_chunked(str(tmp_path), options={"channel": 3})
    volume = open_chunked(str(tmp_path), options={"channel": 2})
    assert np.array_equal(pixels(volume), truth[0, 2])


def test_what_bioformats2raw_wrote_is_its_first_series(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    truth = five_axes(tmp_path / "0", (1, 1, *SHAPE))
    (tmp_path / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    assert np.array_equal(pixels(open_chunked(str(tmp_path))), truth[0, 0])


def test_real_metadata_of_openorganelle_give_each_level(
    shared_data: Path, tmp_path: Path
) -> None:
    recorded = json.loads(
        (shared_data / "api/openorganelle/jrc_mus_nacc_zarr_metadata.json").read_text()
    )
    (tmp_path / ".zattrs").write_text(json.dumps(recorded["attrs"]))
    for name, array in recorded["children"].items():
        (tmp_path / name).mkdir()
        kept = {k: array[k] for k in ("shape", "chunks", "order", "fill_value")}
        dtype = np.dtype(array["dtype"]).str
        stored = {**kept, "dtype": dtype, "compressor": {"id": "zstd", "level": 1}}
        whole = {**stored, "filters": None, "zarr_format": 2}
        (tmp_path / name / ".zarray").write_text(json.dumps(whole))
    levels = list_levels(str(tmp_path))
    assert [level.shape for level in levels[:3]] == [
        (564, 2520, 2596),
        (282, 1260, 1298),
        (141, 630, 649),
    ]
    assert len(levels) == 9
    for n, level in enumerate(levels):
        assert level.voxel_size_nm == pytest.approx(
            (2.96 * 2**n, 4.0 * 2**n, 4.0 * 2**n)
        )
    info = open_chunked(str(tmp_path), level="s2").info
    assert (info.dtype, info.chunk_shape) == ("int16", (64, 64, 64))
    assert info.origin_nm == (4.44, 6.0, 6.0)


def test_an_image_of_idr_is_read_from_a_web_server_without_listings(
    tmp_path: Path,
) -> None:
    """As `idr0062A/6001240.zarr`: axes c, z, y, x, two channels, version 0.4."""
    truth = noise(shape=(2, *SHAPE))
    with serving_folder(tmp_path) as served:
        image = served.folder / "zarr/v0.4/idr0062A/6001240.zarr"
        slash = {"name": "v2", "separator": "/"}
        for n in range(2):
            level = truth[:, :, :: 2**n, :: 2**n]
            write_v2(
                image / str(n), level, chunks=(1, 1, 16, 16), chunk_key_encoding=slash
            )
        units = [{}, *[{"unit": "micrometer"}] * 3]
        axes = [{"name": n, **u} for n, u in zip("czyx", units, strict=True)]
        scales = [[1.0, 0.5, 0.36 * 2**n, 0.36 * 2**n] for n in range(2)]
        datasets = [
            {
                "path": str(n),
                "coordinateTransformations": [{"type": "scale", "scale": scale}],
            }
            for n, scale in enumerate(scales)
        ]
        stated = {"version": "0.4", "axes": axes, "datasets": datasets}
        (image / ".zattrs").write_text(json.dumps({"multiscales": [stated]}))
        url = f"{served.http}/zarr/v0.4/idr0062A/6001240.zarr"
        volume = open_chunked(url, level=1, options={"channel": 1})
        assert volume.info.voxel_size_nm == (500.0, 720.0, 720.0)
        assert volume.info.format == "OME-Zarr 0.4"
        assert np.array_equal(pixels(volume), truth[1, :, ::2, ::2])
        count = count_chunks(url, level=1, options={"channel": 1})
        assert (count.expected, count.missing) == (21 * 2 * 2, 0)
        listings = served.requests.count(lambda each: each.path.endswith("/"))
        assert listings == 0
