"""`em-platform config`: every setting, its value, and the layer that set it."""

import json
import re
from typing import Any

import click
from pydantic import SecretStr

from em_platform.config import FIELDS, LayeredSettings, load_layers
from em_platform.config.example import example_yaml

_PASSWORD_IN_URL = re.compile(r"(?<=://)([^:/@\s]*):[^@/\s]+@")


@click.command()
@click.option(
    "--json", "form", flag_value="json", help="As JSON, one object a setting."
)
@click.option(
    "--yaml", "form", flag_value="yaml", help="An example configuration file."
)
def command(form: str | None) -> None:
    """Show every setting with its value and the layer that it came from.

    Layers, later ones win: defaults, profile (--profile or EM_PROFILE), YAML
    (config.yaml, or EM_CONFIG_FILE), .env, environment (EM_SECTION__FIELD), command
    line (--set section.field=value). Secrets stay hidden.
    """
    if form == "yaml":
        click.echo(example_yaml(), nl=False)
        return
    rows = _rows(load_layers())
    if form == "json":
        click.echo(json.dumps(rows, indent=1))
        return
    widths = {
        key: max(len(str(row[key])) for row in rows) for key in ("setting", "value")
    }
    for row in rows:
        name, value = str(row["setting"]), _as_text(row["value"])
        padded = f"{name:<{widths['setting']}}  {value:<{widths['value']}}"
        click.echo(f"{padded}  {row['layer']}".rstrip())


def _rows(layered: LayeredSettings) -> list[dict[str, Any]]:
    return [
        {
            "setting": field.name,
            "value": _shown(layered.value_of(field.path)),
            "layer": layered.layer_of(field.path),
        }
        for field in FIELDS.values()
    ]


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return list(value)
    return _PASSWORD_IN_URL.sub(r"\1:**********@", str(value))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
