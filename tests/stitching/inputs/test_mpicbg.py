import math
from typing import Any

import numpy as np
import pytest

from em_platform.errors import FormatError
from em_platform.stitching.inputs.tile_specs import compose_affine


def spec(name: str, data: str) -> dict[str, Any]:
    return {"className": f"mpicbg.trakem2.transform.{name}", "dataString": data}


TURN = math.radians(90)


@pytest.mark.parametrize(
    ("listed", "place"),
    [
        (spec("AffineModel2D", "2 0 0 3 5 7"), (2 * 10 + 5, 3 * 20 + 7)),
        (spec("AffineModel2D", "0 1 -1 0 0 0"), (-20, 10)),
        (spec("TranslationModel2D", "5 7"), (15, 27)),
        (spec("RigidModel2D", f"{TURN} 5 7"), (-20 + 5, 10 + 7)),
        (spec("SimilarityModel2D", f"2 {TURN} 5 7"), (-40 + 5, 20 + 7)),
    ],
)
def test_a_model_moves_a_point_as_mpicbg_does(
    listed: dict[str, Any], place: tuple[float, float]
) -> None:
    matrix = compose_affine([listed], {})
    assert matrix is not None
    assert (matrix @ [10, 20, 1])[:2] == pytest.approx(place)


def test_the_first_of_a_list_is_innermost_and_lists_nest() -> None:
    scale, move = (
        spec("AffineModel2D", "2 0 0 2 0 0"),
        spec("TranslationModel2D", "1 1"),
    )
    nested = {"type": "list", "specList": [scale, {"specList": [move]}]}
    matrix = compose_affine([nested], {})
    assert matrix is not None
    assert np.allclose(matrix @ [10, 20, 1], [21, 41, 1])


def test_what_bends_is_left_out_and_references_are_followed() -> None:
    bend = spec("NonLinearCoordinateTransform", "5 21 1.0")
    reference = {"type": "ref", "refId": "t"}
    move = spec("TranslationModel2D", "3 4")
    matrix = compose_affine([bend, reference], {"t": move})
    assert matrix is not None
    assert matrix[:2, 2].tolist() == [3, 4]
    assert compose_affine([bend], {}) is None


@pytest.mark.parametrize("data", ["1 2 3", "a b c d e f", ""])
def test_wrong_numbers_are_one_sentence(data: str) -> None:
    with pytest.raises(FormatError, match=r"AffineModel2D: found data .* expected 6"):
        compose_affine([spec("AffineModel2D", data)], {})
