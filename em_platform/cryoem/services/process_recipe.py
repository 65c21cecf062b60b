"""The dispatcher: a request for recipes becomes the messages that they start with."""

import uuid

from workflows.recipe import Recipe

from em_platform.cryoem.recipes.read import (
    RecipeContent,
    checked,
    filled,
    read_recipe,
)
from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.errors import MessageRejected
from em_platform.model import JsonObject


def handle(step: Step, place: ServiceContext) -> None:
    """Start the recipes that a message names, filled in with its parameters.

    The message is that of zocalo's dispatcher: `recipes`, `parameters`, and a
    `custom_recipe` instead of a name.
    """
    guid, recipe = requested(step.message, place.recipe_folder)
    step.start(recipe, {"ID": guid})


def requested(message: JsonObject, folder: str = "") -> tuple[str, RecipeContent]:
    """The id and the recipe of a request.

    Raises
    ------
    MessageRejected
        It names no recipe, or parameters that are no table.
    ConfigError
        It names an unknown one.
    RecordError
        A queue is not known.
    """
    names = message.get("recipes", [])
    parameters = message.get("parameters", {})
    if not isinstance(parameters, dict) or not isinstance(names, list):
        raise MessageRejected(
            "processing_recipe: `recipes` was no list or `parameters` no table, both "
            "were expected so; correct the message"
        )
    found = [read_recipe(str(name), folder) for name in names]
    if custom := message.get("custom_recipe"):
        if not isinstance(custom, dict):
            raise MessageRejected(
                "processing_recipe: `custom_recipe` was no table, steps were expected; "
                "correct the message"
            )
        found.append(checked(custom, "custom_recipe"))
    if not found:
        raise MessageRejected(
            "processing_recipe: no recipe was named, one was expected; send "
            '{"recipes": ["em-tomo-preprocess"], "parameters": {...}}'
        )
    recipe = Recipe(found[0])
    for another in found[1:]:
        recipe = recipe.merge(Recipe(another))
    # The id of a whole run, by which its messages and logs are found.
    guid = str(parameters.get("guid") or uuid.uuid4())
    return guid, filled(recipe.recipe, {**parameters, "guid": guid})
