"""`em-platform config`: every setting, its value, and the layer that set it."""

import json
from typing import Any

import click
from pydantic import SecretStr

from em_platform.config import FIELDS, LayeredSettings, Settings, load_layers
from em_platform.config.example import example_yaml
from em_platform.errors import without_passwords


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
    line (--set section.field=value). Secrets stay hidden. Folders whose setting is
    empty are shown as they are used.
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
        name, value = str(row["setting"]), row["value"]
        value = value if isinstance(value, str) else json.dumps(value)
        padded = f"{name:<{widths['setting']}}  {value:<{widths['value']}}"
        click.echo(f"{padded}  {row['layer']}".rstrip())


def _rows(layered: LayeredSettings) -> list[dict[str, Any]]:
    effective = _effective(layered.settings)
    return [
        {
            "setting": field.name,
            "value": _shown(effective.get(field.name, layered.value_of(field.path))),
            "layer": layered.layer_of(field.path),
        }
        for field in FIELDS.values()
    ]


def _effective(settings: Settings) -> dict[str, str]:
    """Folders that are derived from `home` where their own setting is empty."""
    from em_platform.acquisition.frame_paths import frames_folder
    from em_platform.acquisition.montages.inbox import inbox_of
    from em_platform.storage import store_of

    return {
        "storage.root": store_of(settings).root,
        "acquisition.frames": str(frames_folder(settings)),
        "acquisition.inbox": str(inbox_of(settings).folder),
        "logging.folder": str(settings.logs_folder),
        "ingest.transfer.raw_folder": str(settings.raw_folder),
    }


def _shown(value: Any) -> Any:
    # pydantic shows ten stars for a secret, of whatever length it is.
    if isinstance(value, SecretStr):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return list(value)
    # An address may hold a password, though its setting is no secret.
    return without_passwords(str(value))
