from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from em_platform.model.base import Model, first_problem
from em_platform.model.sentences import apart, counted, nearest, size_of


@pytest.mark.parametrize(
    ("number", "text"), [(0, "no images"), (1, "1 image"), (2, "2 images")]
)
def test_a_number_agrees_with_its_noun(number: int, text: str) -> None:
    """round3 1.2.10: "found 1 images", and 1.2.6: "found 0 images"."""
    assert counted(number, "image") == text


def test_a_name_is_suggested_only_where_one_is_like_it() -> None:
    assert nearest("sede", ["name", "seed"]) == "; did you mean seed?"
    assert nearest("sede", ["name", "tilts"]) == ""


@pytest.mark.parametrize(
    ("value", "limit", "form", "text"),
    [
        (5.4, 6, ".1f", "5.4"),
        (5.98, 6, ".1f", "5.98"),
        (5.9996, 6, ".1f", "5.9996"),
        (6, 6, ".1f", "6.0"),
        (0.11996, 0.12, ".3f", "0.11996"),
        (0.00104, 0.001, ".2%", "0.104%"),
    ],
)
def test_a_value_has_the_digits_that_set_it_apart_from_its_limit(
    value: float, limit: float, form: str, text: str
) -> None:
    """round3 1.2.6: "peak 6.0 sigma, 6 needed"."""
    assert apart(value, limit, form) == text


def test_an_image_is_width_x_height_and_a_volume_names_its_axes() -> None:
    """round3 1.2.9: stitch printed 2215 x 2039 px, export of the same 2039 x 2215."""
    assert size_of((2039, 2215)) == "2215 x 2039 px"
    assert size_of((1, 300, 400)) == "1 x 300 x 400 voxels (z, y, x)"


class _Ice(Model):
    thickness_nm: float = Field(le=1e4)
    layers: int = Field(1, le=9)
    kind: Literal["cubic", "vitreous"] = "vitreous"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"thickness_nm": 1e9}, "thickness_nm: found 1e+09, expected at most 10000"),
        # More than a float can have.
        ({"thickness_nm": 1, "layers": 10**400}, "layers: expected at most 9"),
        # A text may be secret.
        (
            {"thickness_nm": 1, "kind": "x"},
            "kind: expected 'cubic' or 'vitreous'",
        ),
    ],
)
def test_a_value_out_of_its_bounds_is_named_with_them(
    values: dict[str, Any], text: str
) -> None:
    """round3 1.2.10: "Input should be less than or equal to 10000", of what?"""
    with pytest.raises(ValidationError) as caught:
        _Ice.model_validate(values)
    assert first_problem(caught.value, _Ice) == text
