import inspect
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from em_platform import model
from em_platform.model import (
    AcquisitionUpload,
    Box,
    Check,
    Failure,
    LensModel,
    MeasuredTile,
    Model,
    Montage,
    MontageFit,
    NeighbourMatch,
    PlannedTile,
    Review,
    ReviewStatus,
    Severity,
    Shift,
    Size,
    StoredTile,
    Tile,
    TileMatch,
    TilePlacement,
    TileStats,
    UploadedTile,
    UsedInstrument,
)

SIZE = Size(height_px=2048, width_px=2048)
TILE = Tile(
    tile_id="m_000_001",
    uri="frames/m/m_000_001.tiff",
    row=0,
    column=1,
    y_px=0.5,
    x_px=1802.25,
    size=SIZE,
    stage_y_nm=-12.5,
)
MATCH = TileMatch(
    a="m_000_000",
    b="m_000_001",
    shift=Shift(dy_px=0.1, dx_px=1803.9),
    score=0.91,
    points=2,
    peak_z=31.5,
    spread_px=0.07,
    a_points=((100.0, 1900.0), (900.0, 1900.0)),
    b_points=((99.9, 96.1), (899.9, 96.1)),
)
MEASURED = MeasuredTile(
    minimum=3.0, maximum=250.0, mean=127.5, std=31.0, focus_score=0.8
)
NEIGHBOUR = NeighbourMatch(
    row=0,
    column=0,
    position="left",
    dx_px=-1803.9,
    dy_px=0.1,
    dx_std_px=0.07,
    dy_std_px=0.05,
    distance_px=1803.9,
    rotation_rad=0.0001,
    tile_points=((99.9, 96.1),),
    neighbour_points=((100.0, 1900.0),),
)
UPLOADED = UploadedTile(
    tile_id=TILE.tile_id,
    raster_index=1,
    row=0,
    column=1,
    stage_x_nm=7209,
    stage_y_nm=-12,
    sha256="0" * 64,
    bytes=4_194_304,
    statistics=MEASURED,
    matches=(NEIGHBOUR,),
    passed=True,
)
EXAMPLES: tuple[Model, ...] = (
    SIZE,
    Shift(dy_px=-1.5, dx_px=0.0),
    Box(y0=0, x0=0, y1=5, x1=6),
    TILE,
    TileStats(
        tile_id=TILE.tile_id,
        minimum=0,
        maximum=255,
        mean=127.5,
        std=31.0,
        focus=0.4,
        saturated_fraction=0.0,
        histogram=(1,) * 256,
    ),
    MATCH,
    Failure(item="x.tiff", error="FormatError", sentence="x.tiff: zero bytes"),
    Montage(
        acquisition_id="m-0001",
        montage_id="roi-7",
        tiles=(TILE,),
        tile_size=SIZE,
        expected_tiles=1,
        started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    ),
    PlannedTile(tile_id=TILE.tile_id, row=0, column=1),
    TilePlacement(tile_id=TILE.tile_id, y_px=0.4, x_px=1803.9, residual_px=0.02),
    MontageFit(
        acquisition_id="m-0001",
        placements=(TilePlacement(tile_id="t", y_px=0.0, x_px=0.0),),
        matches=(MATCH,),
        residual_px=0.02,
    ),
    LensModel(
        microscope="sim",
        magnification=2000,
        size=SIZE,
        degree=2,
        dy_px=(0.0,) * 6,
        dx_px=(0.0,) * 6,
        residual_mean_px=0.01,
        residual_std_px=0.01,
        points=1000,
    ),
    Review(status=ReviewStatus.NEEDS_REVIEW, reasons=("Missing: 1 of 4 tiles.",)),
    Check(
        name="tiles_are_in_focus",
        passed=False,
        severity=Severity.WARN,
        sentence="2 of 25 tiles are blurred",
        items=("a", "b"),
    ),
    MEASURED,
    NEIGHBOUR,
    UPLOADED,
    StoredTile(sha256="0" * 64, bytes=4_194_304, uri="file:///store/m/t.zarr"),
    UsedInstrument(microscope="sim", exposure_us=50_000.0, magnification=2000),
    AcquisitionUpload(
        acquisition_id="m-0001",
        montage_id="roi-7",
        started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        pixel_nm=4.0,
        rotation_rad=0.5,
        tile_size=SIZE,
        roi={"montage_id": "roi-7"},
        tiles=(UPLOADED,),
    ),
)
KEYS = [each for each in EXAMPLES if not isinstance(each, AcquisitionUpload)]
"""All but the one that holds a foreign message, which is a dictionary."""


def name_of(value: Model) -> str:
    return type(value).__name__


@pytest.mark.parametrize("value", EXAMPLES, ids=name_of)
def test_a_model_comes_back_from_json_as_it_was(value: Model) -> None:
    again = type(value).model_validate_json(value.model_dump_json())
    assert again == value


@pytest.mark.parametrize("value", KEYS, ids=name_of)
def test_equal_models_are_the_same_key(value: Model) -> None:
    again = type(value).model_validate_json(value.model_dump_json())
    assert hash(again) == hash(value)


@pytest.mark.parametrize("value", EXAMPLES, ids=name_of)
def test_an_unknown_field_is_refused(value: Model) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        type(value).model_validate({**value.model_dump(), "surprise": 1})


@pytest.mark.parametrize("value", EXAMPLES, ids=name_of)
def test_a_value_cannot_be_changed(value: Model) -> None:
    field = next(iter(type(value).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(value, field, getattr(value, field))


def float_fields() -> Iterator[Any]:
    for value in EXAMPLES:
        for name, content in value.model_dump().items():
            if isinstance(content, float):
                yield pytest.param(value, name, id=f"{name_of(value)}.{name}")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("value", "field"), list(float_fields()))
def test_nan_and_infinity_are_refused(value: Model, field: str, bad: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        type(value).model_validate({**value.model_dump(), field: bad})


def test_a_length_must_be_positive() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        Size.model_validate({"height_px": 0, "width_px": 5})


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 201])
def test_an_acquisition_id_can_be_a_folder_and_a_partition(name: str) -> None:
    montage = next(value for value in EXAMPLES if isinstance(value, Montage))
    with pytest.raises(ValidationError, match="acquisition_id"):
        Montage.model_validate({**montage.model_dump(), "acquisition_id": name})


def test_every_model_has_an_example_here() -> None:
    public = {
        kind
        for kind in vars(model).values()
        if inspect.isclass(kind) and issubclass(kind, Model) and kind is not Model
    }
    known = {type(value) for value in EXAMPLES}
    here = {kind for kind in public if kind.__name__ != "DatasetRecord"}
    assert here == known, "DatasetRecord is tested in tests/catalog"
