"""A recipe as text or as a diagram."""

from typing import Literal

from em_platform.cryoem.recipes.read import (
    RecipeContent,
    RecipeStep,
    links_of,
    steps_of,
)

DrawingForm = Literal["text", "mermaid", "dot"]


def draw_recipe(recipe: RecipeContent, form: DrawingForm = "text") -> str:
    """The steps and what goes from one to the next, a line each."""
    starts = [number for number, _ in recipe["start"]]
    steps = list(steps_of(recipe))
    names = {number: _name(step) for number, step in steps}
    links = [
        (number, channel, to)
        for number, step in steps
        for channel, to in links_of(step)
    ]
    if form == "mermaid":
        lines = ["flowchart TD"]
        lines += [f'  s{n}["{n} {name}"]' for n, name in names.items()]
        lines += [
            f"  s{a} -->{f'|{channel}|' if channel else ''} s{b}"
            for a, channel, b in links
        ]
        return "\n".join(lines)
    if form == "dot":
        lines = ["digraph recipe {"]
        lines += [f'  s{n} [label="{n} {name}"];' for n, name in names.items()]
        lines += [f'  s{a} -> s{b} [label="{channel}"];' for a, channel, b in links]
        return "\n".join([*lines, "}"])
    lines = []
    for number, step in steps:
        mark = "> " if number in starts else "  "
        lines.append(f"{mark}{number:>2}  {names[number]}  [{_place(step)}]")
        lines += [
            f"        {channel or 'output'} -> {to} {names[to]}"
            for channel, to in links_of(step)
        ]
    return "\n".join(lines)


def _name(step: RecipeStep) -> str:
    parameters = step.get("parameters") or {}
    does = parameters.get("ispyb_command") or parameters.get("image_command")
    name = str(step.get("service", "?"))
    return f"{name} {does}" if does else name


def _place(step: RecipeStep) -> str:
    return str(step.get("queue") or step.get("topic") or "no queue")
