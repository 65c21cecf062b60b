"""Recipes are read as zocalo's, and what upstream lets through is found."""

import json
from pathlib import Path
from typing import Any

import pytest

from em_platform.cryoem.recipes import (
    draw_recipe,
    filled,
    lint_recipe,
    placeholders_of,
    read_recipe,
    read_recipe_file,
    recipe_names,
)
from em_platform.errors import ConfigError, FormatError, PlatformError, RecordError

SEED = {
    "1": {
        "service": "ISPyB connector",
        "queue": "ispyb_connector",
        "parameters": {"ispyb_command": "insert_movie", "store_result": "m"},
        "output": 2,
    },
    "2": {
        "service": "MotionCorr",
        "queue": "motioncorr",
        "parameters": {"pix_size": "{pix_size}", "fm_dose": "{fm_dose}", "kv": "{kv}"},
        "output": {"ctffind": 3, "images": 4},
    },
    "3": {"service": "CTFFind", "queue": "ctffind", "output": {"images": 4}},
    "4": {"service": "Images", "queue": "images"},
    "start": [[1, []]],
}
"""With the names of 2023-12."""


def changed(**steps: dict[str, Any]) -> dict[Any, Any]:
    """The recipe with other values in some steps."""
    content = json.loads(json.dumps(SEED))
    for key, values in steps.items():
        content[key[1:]] |= values
    return content


def read(tmp_path: Path, content: Any) -> dict[Any, Any]:
    path = tmp_path / "r.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_recipe_file(str(path))


def test_a_recipe_of_the_seeds_age_has_no_problems(tmp_path: Path) -> None:
    assert lint_recipe(read(tmp_path, SEED)) == []


@pytest.mark.parametrize("name", recipe_names())
def test_our_own_recipes_have_no_problems(name: str) -> None:
    recipe = read_recipe(name)
    assert lint_recipe(recipe) == []
    parameters = dict.fromkeys(placeholders_of(recipe), "x")
    assert lint_recipe(recipe, parameters) == []
    assert placeholders_of(filled(recipe, parameters)) == set()


def test_the_documented_recipes_are_there() -> None:
    assert {
        *("em-tomo-preprocess", "em-tomo-align", "em-spa-preprocess"),
        *("em-spa-extract", "em-spa-class2d"),
    } <= set(recipe_names())
    assert "services" not in recipe_names()


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        (
            {"s2": {"service": "MotionCor"}},
            "error: step 2: no service is called 'MotionCor'; is MotionCorr meant?",
        ),
        (
            {"s3": {"queue": "ctf"}},
            "error: step 3: the queue is 'ctf', but CTFFind listens at 'ctffind'",
        ),
        (
            {"s3": {"queue": "cluster.submission"}},
            "error: step 3: CTFFind goes to cluster.submission without a cluster "
            "block; no job can be made",
        ),
        (
            {
                "s3": {
                    "queue": "cluster.submission",
                    "parameters": {"cluster": {"commands": ["x -w CLEMLIFToStack -r"]}},
                }
            },
            "error: step 3: no wrapper is called 'CLEMLIFToStack'; is "
            "CLEMProcessRawLIFs meant?",
        ),
        (
            {"s2": {"output": {"ctffind": 3, "images": 4, "movie": 4}}},
            "warning: step 2: MotionCorr never sends to 'movie': nothing comes of it",
        ),
        (
            {"s3": {"output": {"images": 4, "node_creator": 4}}},
            "error: step 3: 'node_creator' leads to step 4, Images, not to NodeCreator",
        ),
        (
            {"s2": {"parameters": {"pixelsize": 1}}},
            "warning: step 2: MotionCorr knows no parameter 'pixelsize'; is pixel_size "
            "meant?",
        ),
        (
            {"s1": {"parameters": {"ispyb_command": "insert_movies"}}},
            "error: step 1: no ISPyB command is called 'insert_movies'; is "
            "insert_movie meant?",
        ),
    ],
)
def test_what_upstream_lets_through_is_found(
    tmp_path: Path, steps: dict[str, Any], problem: str
) -> None:
    found = lint_recipe(read(tmp_path, changed(**steps)))
    assert [str(each) for each in found] == [problem]


def test_names_that_the_parameters_do_not_fill_in_are_found(tmp_path: Path) -> None:
    found = lint_recipe(read(tmp_path, SEED), {"pix_size": 1, "kv": 300})
    assert [str(each) for each in found] == [
        "warning: step 2: {fm_dose} is not among the parameters and would stay as it is"
    ]


def test_parameters_are_filled_in_as_zocalo_does(tmp_path: Path) -> None:
    content = changed(
        s2={"parameters": {"a": "{x}.mrc", "b": "{unknown}", "c": "{$REPLACE:list}"}}
    )
    recipe = filled(read(tmp_path, content), {"x": "/data/m", "list": [1, 2]})
    own = {"a": "/data/m.mrc", "b": "{unknown}", "c": [1, 2]}
    assert recipe[2]["parameters"] == own


@pytest.mark.parametrize(
    "text", ["{a:>600000000}", "{a.__class__}", "{a[0]}", "{a!r}", "{0}", "{", "}{}"]
)
def test_braces_are_names_and_nothing_else(tmp_path: Path, text: str) -> None:
    """round3 4.6: a recipe of 125 bytes with a width took 1.8 GB."""
    recipe = read(tmp_path, changed(s2={"parameters": {"a": text, text: "{a}"}}))
    own = filled(recipe, {"a": "x"})[2]["parameters"]
    assert own == {"a": text, text: "x"}


@pytest.mark.parametrize("text", ["{a}" * 500_000, "{$REPLACE:list}"])
def test_a_recipe_is_not_filled_in_without_end(tmp_path: Path, text: str) -> None:
    """round3 4.6"""
    given = {"a": "x" * 1000, "list": ["x" * 5_000_000]}
    recipe = read(tmp_path, changed(s2={"parameters": {"a": text}}))
    with pytest.raises(RecordError, match="more than 4000000 letters"):
        filled(recipe, given)


def test_very_many_ways_through_a_recipe_are_refused(tmp_path: Path) -> None:
    """workflows goes each of them, for ever."""
    pairs = range(1, 61, 2)
    content: dict[str, Any] = {"start": [[1, []], [2, []]]}
    for first in pairs:
        after = [first + 2, first + 3] if first + 2 in pairs else []
        for number in (first, first + 1):
            content[str(number)] = {"queue": "a", "output": after}
    with pytest.raises(RecordError, match="more than 10000 ways"):
        read(tmp_path, content)


def test_a_queue_that_is_not_known_is_one_sentence(tmp_path: Path) -> None:
    recipe = read(tmp_path, changed(s4={"queue": "{feedback_queue}"}))
    with pytest.raises(RecordError, match="no parameter feedback_queue; add it"):
        filled(recipe, {})


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        ("{", FormatError, "cannot be read"),
        ("[]", FormatError, "an object was expected"),
        ({}, RecordError, "No recipe defined"),
        ({"1": {"queue": "a"}}, RecordError, '"start" node missing'),
        (changed(s4={"output": 2}), RecordError, "cycle"),
        (changed(s4={"output": 9}), RecordError, '"9" is referenced'),
        ({**SEED, "5": {"queue": "a"}}, RecordError, 'unreferenced node "5"'),
        ({"1": [], "start": [[1, []]], "x": {}}, RecordError, "invalid literal"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(
    tmp_path: Path, content: Any, kind: type[PlatformError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        read(tmp_path, content)


@pytest.mark.parametrize(
    "name",
    [
        *("nothing", "../recipes/em-tomo-align", "services", "", "a\nb", "a\0"),
        *("em-tomo-align.json", "/etc/passwd", ".", "x" * 5000),
    ],
)
def test_an_unknown_recipe_is_one_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no .* em-tomo-align"):
        read_recipe(name)


def test_a_sites_recipe_comes_before_ours(tmp_path: Path) -> None:
    (tmp_path / "em-tomo-align.json").write_text(json.dumps(SEED))
    assert read_recipe("em-tomo-align", str(tmp_path))[2]["service"] == "MotionCorr"
    assert "em-spa-extract" in recipe_names(str(tmp_path))


def test_a_drawing_has_every_step_and_link(tmp_path: Path) -> None:
    recipe = read(tmp_path, SEED)
    text = draw_recipe(recipe).splitlines()
    assert text[0] == ">  1  ISPyB connector insert_movie  [ispyb_connector]"
    assert text[1] == "        output -> 2 MotionCorr"
    assert "  s2 -->|ctffind| s3" in draw_recipe(recipe, "mermaid")
    assert '  s3 -> s4 [label="images"];' in draw_recipe(recipe, "dot")
