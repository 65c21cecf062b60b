"""Small valid inputs of every kind, written by the libraries that read them."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_cryoem_files import write_cryoem
from benchmarks.fuzz_network import write_temdb

GRAIN = np.random.default_rng(3).integers(20, 230, (6, 48, 40)).astype("u1")


def write_files(folder: Path) -> None:
    """Image files of one plane or several."""
    import imagecodecs
    import tifffile

    from em_platform.standins.image_files import write_dm, write_mrc

    ways: dict[str, dict[str, Any]] = {
        "plain": {"metadata": None},
        "strips": {"metadata": None, "rowsperstrip": 4},
        "big": {"bigtiff": True, "byteorder": ">", "metadata": None},
        "imagej": {"imagej": True, "resolution": (50, 50)},
        "ome": {"ome": True},
        "zlib": {"compression": "zlib", "rowsperstrip": 16, "predictor": True},
        "lzw": {"compression": "lzw", "metadata": None},
        "zstd": {"compression": "zstd", "tile": (16, 16)},
        "jpeg": {"compression": "jpeg", "metadata": None},
        "packbits": {"compression": "packbits", "byteorder": ">"},
    }
    for name, how in ways.items():
        tifffile.imwrite(folder / f"{name}.tif", GRAIN, photometric="minisblack", **how)
        tifffile.imwrite(
            folder / f"{name}1.tif", GRAIN[0], photometric="minisblack", **how
        )
    white = {"photometric": "miniswhite", "metadata": None}
    tifffile.imwrite(folder / "white.tif", GRAIN[0].astype("u2"), **white)
    grey = np.stack([np.arange(256, dtype="u2") * 257] * 3)
    tifffile.imwrite(folder / "palette.tif", GRAIN[0], colormap=grey, metadata=None)
    fei = b"[User]\nDate=1/1/2020\n[Scan]\nPixelWidth=1e-9\nPixelHeight=1e-9\n"
    more = [(34682, 2, len(fei) + 1, fei + b"\0", True)]
    tifffile.imwrite(folder / "fei.tif", GRAIN[0], metadata=None, extratags=more)
    with tifffile.TiffWriter(folder / "thumb.tif") as writer:
        writer.write(GRAIN[0, ::4, ::4], subfiletype=1, metadata=None)
        writer.write(GRAIN[0], metadata=None)
    tags = {"Microscope Info": {"Voltage": 200000.0, "Items": [1, 2]}}
    for version in (3, 4):
        write_dm(
            folder / f"a.dm{version}", GRAIN, pixel_um=0.01, name="a", tags=tags,
            version=version,
        )  # fmt: skip
    write_mrc(folder / "stack.mrc", GRAIN.astype("i2"), voxel_nm=4.0)
    (folder / "a.png").write_bytes(imagecodecs.png_encode(GRAIN[0]))
    (folder / "b.png").write_bytes(imagecodecs.png_encode(GRAIN[0].astype("u2")))
    (folder / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(GRAIN[0]))


def _multiscales(version: str) -> dict[str, Any]:
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    steps = [
        {"type": "scale", "scale": [4.0, 4.0, 4.0]},
        {"type": "translation", "translation": [1.0, 2.0, 3.0]},
    ]
    datasets = [{"path": "s0", "coordinateTransformations": steps}]
    return {"version": version, "name": "a", "axes": axes, "datasets": datasets}


def write_ome2(folder: Path) -> None:
    """OME-Zarr 0.4 on Zarr v2."""
    import zarr

    group = zarr.open_group(folder, mode="w", zarr_format=2)
    group.attrs["multiscales"] = [_multiscales("0.4")]
    array = group.create_array("s0", shape=GRAIN.shape, dtype="u1", chunks=(4, 16, 16))
    array[...] = GRAIN


def write_ome3(folder: Path) -> None:
    """OME-Zarr 0.5 on Zarr v3, in shards."""
    import zarr

    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.attrs["ome"] = {"version": "0.5", "multiscales": [_multiscales("0.5")]}
    array = group.create_array(
        "s0", shape=GRAIN.shape, dtype="u1", chunks=(2, 8, 8), shards=(6, 48, 40)
    )
    array[...] = GRAIN


def write_n5(folder: Path) -> None:
    """An N5 group with two levels and a COSEM transform."""
    from em_platform.standins.chunk_stores import write_json, write_n5_array

    for level, step in (("s0", 1), ("s1", 2)):
        transform = {"axes": ["z", "y", "x"], "units": ["nm"] * 3,
                     "scale": [4.0 * step] * 3, "translate": [0.0] * 3}  # fmt: skip
        attributes = {
            "transform": transform,
            "pixelResolution": {"dimensions": [4.0 * step] * 3, "unit": "nm"},
        }
        part = np.ascontiguousarray(GRAIN[::step, ::step, ::step])
        write_n5_array(folder / level, part, block=(4, 16, 16), attributes=attributes)
    datasets = [{"path": "s0"}, {"path": "s1"}]
    stated = {"multiscales": [{"name": "a", "datasets": datasets}],
              "downsamplingFactors": [[1, 1, 1], [2, 2, 2]]}  # fmt: skip
    write_json(folder / "attributes.json", stated)


def write_precomputed(folder: Path) -> None:
    """A precomputed volume of one scale."""
    import tensorstore

    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "multiscale_metadata": {"data_type": "uint8", "num_channels": 1,
                                "type": "image"},
        "scale_metadata": {"size": GRAIN.shape[::-1], "resolution": [4, 4, 4],
                           "chunk_size": (16, 16, 4), "encoding": "raw"},
    }  # fmt: skip
    store = tensorstore.open(spec, create=True).result()
    store[..., 0] = GRAIN.transpose()


def _tiles(folder: Path) -> list[str]:
    from em_platform.formats import write_tiff

    names = [f"r{n // 2}c{n % 2}.tif" for n in range(4)]
    folder.mkdir(parents=True, exist_ok=True)
    scene = np.random.default_rng(5).integers(0, 255, (160, 160)).astype("u1")
    for n, name in enumerate(names):
        y, x = 64 * (n // 2), 64 * (n % 2)
        write_tiff(folder / name, np.ascontiguousarray(scene[y : y + 96, x : x + 96]))
    return names


def write_table(folder: Path) -> None:
    """Tiles and a CSV."""
    lines = ["file,x_px,y_px,row,column,pixel_nm"]
    for n, name in enumerate(_tiles(folder)):
        lines.append(f"{name},{64 * (n % 2)},{64 * (n // 2)},{n // 2},{n % 2},4.0")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")


def write_json_table(folder: Path) -> None:
    """Tiles and a JSON table with a mask."""
    names = _tiles(folder)
    (folder / "mask.tif").write_bytes((folder / names[0]).read_bytes())
    rows = [
        {"file": name, "x_px": 64 * (n % 2), "y_px": 64 * (n // 2), "mask": ""}
        for n, name in enumerate(names)
    ]
    rows[1]["mask"] = "mask.tif"
    content = {"pixel_nm": 4.0, "tiles": rows, "failures": []}
    (folder / "tiles.json").write_text(json.dumps(content))


def write_specs(folder: Path) -> None:
    """Tiles and render's tile specs."""
    specs = []
    for n, name in enumerate(_tiles(folder)):
        affine = {"type": "leaf", "className": "mpicbg.trakem2.transform.AffineModel2D",
                  "dataString": f"1 0 0 1 {64 * (n % 2)} {64 * (n // 2)}"}  # fmt: skip
        specs.append({
            "tileId": name, "width": 96, "height": 96, "minX": 64 * (n % 2), "minY": 0,
            "layout": {"imageRow": n // 2, "imageCol": n % 2, "stageX": 1.0},
            "mipmapLevels": {"0": {"imageUrl": f"file:/x/{name}"}},
            "transforms": {"type": "list", "specList": [affine]},
        })  # fmt: skip
    (folder / "specs.json").write_text(json.dumps(specs))


def write_metafile(folder: Path) -> None:
    """Tiles and a TEMCA's metafile."""
    entries = []
    for n, name in enumerate(_tiles(folder)):
        seen = {"stage_pos": [256.0 * (n % 2), 256.0 * (n // 2)], "angle": 0.0,
                "raster_pos": [n % 2, n // 2], "pixel_size": 4.0}  # fmt: skip
        entries.append({"img_path": name, "img_meta": seen})
    highmag = {"nm_per_pix": 4.0, "angle": 0.0}
    about = {"calibration": {"highmag": highmag}, "temca_id": "T1",
             "roi_creation_time": "20200101000000"}  # fmt: skip
    content = [{"metadata": about}, {"data": entries}]
    (folder / "_metadata_1.json").write_text(json.dumps(content))


def write_mdoc(folder: Path) -> None:
    """A stack and SerialEM's mdoc."""
    from em_platform.standins.image_files import write_mrc

    write_mrc(folder / "a.mrc", GRAIN[:4].astype("i2"), voxel_nm=4.0)
    lines = ["PixelSpacing = 40", "ImageFile = a.mrc", "[T = SerialEM]", ""]
    for n in range(4):
        place = f"{30 * (n % 2)} {36 * (n // 2)}"
        lines += [f"[ZValue = {n}]", f"PieceCoordinates = {place} 0",
                  "StagePosition = 1.0 2.0", "Magnification = 135",
                  "DateTime = 01-Jan-20  10:00:00", ""]  # fmt: skip
    (folder / "a.mrc.mdoc").write_text("\n".join(lines))


def write_settings(folder: Path) -> None:
    """A file of settings and a `.env`."""
    (folder / "config.yaml").write_text(
        "home: /tmp/x\nstorage:\n  root: ${EM_ROOT:/tmp/y}\nbroker:\n  port: 61616\n"
        "stitching:\n  tile:\n    flat_field: auto\n    percentiles: [0.1, 99.9]\n"
        "  match:\n    search_px: 64\ningest:\n  workers: 2\n  openorganelle:\n"
        "    items: [jrc_a/s3]\n"
    )
    (folder / "a.env").write_text("EM_BROKER__PORT=61616\nEM_INGEST__WORKERS=2\n")


def write_mosaic(folder: Path) -> None:
    """A mosaic as we write it."""
    from em_platform.config import RenderSettings
    from em_platform.ome_zarr import write_pyramid
    from em_platform.storage.manifest import Product

    write_pyramid(
        str(folder / "m.zarr"), (48, 40), dtype="u1",
        render=lambda region: np.ascontiguousarray(GRAIN[0][region]),
        settings=RenderSettings(), name="a", product=Product(kind="mosaic", of="a"),
        fingerprint="a",
    )  # fmt: skip


@cache
def message_bodies() -> dict[str, bytes]:
    """A valid body for each topic, as its schema describes it."""
    from em_platform.messaging.topics import topics

    bodies = {}
    for topic, model in topics().items():
        schema = model.model_json_schema()
        bodies[topic] = json.dumps(example_of(schema, schema.get("$defs", {}))).encode()
    return bodies


def example_of(schema: dict[str, Any], known: dict[str, Any]) -> Any:
    """A value as a JSON schema describes it; `known` are its named parts."""
    if "$ref" in schema:
        return example_of(known[schema["$ref"].rpartition("/")[2]], known)
    for name in ("default", "const"):
        if schema.get(name) is not None:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return example_of(schema[name][0], known)
    kind = schema.get("type")
    if schema.get("format") == "date-time":
        return "2026-01-01T00:00:00Z"
    if kind == "object":
        return {
            k: example_of(v, known) for k, v in schema.get("properties", {}).items()
        }
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return [example_of(item, known) for item in items]
    return {"integer": 1, "number": 1.0, "boolean": True, "string": "a"}.get(kind or "")


SEEDS: dict[str, Callable[[Path], None]] = {
    "files": write_files,
    "ome2": write_ome2,
    "ome3": write_ome3,
    "n5": write_n5,
    "precomputed": write_precomputed,
    "table": write_table,
    "json_table": write_json_table,
    "specs": write_specs,
    "metafile": write_metafile,
    "mdoc": write_mdoc,
    "settings": write_settings,
    "mosaic": write_mosaic,
    "cryoem": write_cryoem,
    "temdb": write_temdb,
}
