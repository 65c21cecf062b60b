"""Settings from layers.

Defaults < profile < YAML < `.env` < environment < command line.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from em_platform.config import fields, layers, profiles
from em_platform.config.fields import FIELDS
from em_platform.config.settings import Settings
from em_platform.errors import ConfigError

Sources = dict[fields.KeyPath, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayeredSettings:
    """The settings, and the name of the layer that each value came from."""

    settings: Settings
    sources: Sources

    def layer_of(self, path: fields.KeyPath) -> str:
        """The layer that set the value at `path`."""
        return self.sources.get(path, "default")

    def value_of(self, path: fields.KeyPath) -> Any:
        """The checked value at `path`."""
        value: Any = self.settings
        for key in path:
            value = getattr(value, key)
        return value


def load_settings(
    yaml_path: Path | None = None,
    *,
    env_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Settings:
    """Merge the layers into one `Settings`, with the file of the broker's token.

    Parameters
    ----------
    yaml_path
        YAML file; without it `EM_CONFIG_FILE` or `EM_CONFIG_PATH`, else `config.yaml`
        where it exists. It stands above the profile that `EM_PROFILE` names.
    env_file
        File of `NAME=value` lines; without it `.env` where it exists.
    environment
        Process environment (default: `os.environ`).
    overrides
        Command line or run settings, `section.field` -> text.

    Raises
    ------
    ConfigError
        An unknown key or a wrong value; the sentence names the key and its layer.
    """
    layered = load_layers(
        yaml_path, env_file=env_file, environment=environment, overrides=overrides
    )
    return _with_token_file(layered.settings)


def load_layers(
    yaml_path: Path | None = None,
    *,
    env_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> LayeredSettings:
    """As `load_settings`, but nothing is added; tells which layer gave each value."""
    environment = os.environ if environment is None else environment
    dotenv = layers.read_env_file(env_file)
    variables = {**dotenv, **environment}
    values: layers.Layer = {}
    sources: Sources = {}

    def put(layer: layers.Layer, name: str) -> None:
        for path, value in layer.items():
            # `field:` without a value gives the default back, where that is not None.
            if value is None and FIELDS[path].default is not None:
                values.pop(path, None)
                sources.pop(path, None)
            else:
                values[path], sources[path] = value, name

    if profile := variables.get(profiles.VARIABLE):
        for name, layer in profiles.read_profile(profile, variables):
            put(layer, name)
    path = _yaml_path(yaml_path, variables)
    if path is not None:
        put(layers.read_yaml(path, variables), f"YAML {path}")
    # Two layers, though merged above, so that each value names its own.
    put(layers.of_variables(dotenv, ".env"), ".env")
    put(layers.of_variables(environment, "environment"), "environment")
    _credit_command_line(environment, sources)
    put(layers.of_overrides(overrides or {}, "command line"), "command line")
    return LayeredSettings(settings=_validate(values, sources), sources=sources)


def _yaml_path(given: Path | None, environment: Mapping[str, str]) -> Path | None:
    for name in ("EM_CONFIG_FILE", "EM_CONFIG_PATH"):
        if given is None and environment.get(name):
            given = Path(environment[name])
    if given is not None:
        return given
    default = Path("config.yaml")
    return default if default.is_file() else None


def _credit_command_line(environment: Mapping[str, str], sources: Sources) -> None:
    # `--set` reaches child processes as variables (`layers.export`).
    names = environment.get(layers.SET_BY_COMMAND_LINE, "").split()
    for field in FIELDS.values():
        if field.environment_name in names and field.path in sources:
            sources[field.path] = "command line"


def _validate(values: layers.Layer, sources: Sources) -> Settings:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = value
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentences(error, sources))) from error


def _with_token_file(settings: Settings) -> Settings:
    """Name the file of the embedded broker's token, where it has no other login."""
    broker = settings.broker
    if not broker.embedded or broker.username or broker.token_file:
        return settings
    # Absolute: a service may work in another folder than the one that started it.
    file = settings.home.absolute() / "tokens" / "broker"
    named = broker.model_copy(update={"token_file": str(file)})
    return settings.model_copy(update={"broker": named})


def _sentences(error: ValidationError, sources: Sources) -> list[str]:
    sentences = []
    for problem in error.errors():
        where = tuple(str(part) for part in problem["loc"])
        # pydantic puts these words before a sentence of ours.
        message = problem["msg"].removeprefix("Value error, ")
        path = next((p for p in FIELDS if where[: len(p)] == p), None)
        if path is None:
            # A rule of a whole section: any layer that set a part of it may be wrong.
            layer = _layers_below(where, sources)
            sentences.append(f"{layer}: section {'.'.join(where)}: {message}")
            continue
        # A secret must not get into a log by being wrong.
        found = "the given value" if FIELDS[path].is_secret else repr(problem["input"])
        sentences.append(
            f"{sources.get(path, 'default')}: {'.'.join(where)} = {found}: "
            f"{message}; correct it there"
        )
    return sentences


def _layers_below(section: fields.KeyPath, sources: Sources) -> str:
    """The layers that set something in a section whose settings do not fit together."""
    below = [layer for p, layer in sources.items() if p[: len(section)] == section]
    return " and ".join(dict.fromkeys(below)) or "default"
