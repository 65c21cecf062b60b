"""Settings from layers: defaults < YAML < `.env` < environment < command line."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values
from pydantic import ValidationError

from em_platform.config.settings import ALIASES, Settings
from em_platform.errors import ConfigError

_REFERENCE = re.compile(
    r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>[^}]*))?\}"
)
_PREFIX = "EM_"

Tree = dict[str, Any]
Sources = dict[tuple[str, ...], str]


def load_settings(
    yaml_path: Path | None = None,
    *,
    env_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Settings:
    """Merge the layers into one `Settings`.

    Parameters
    ----------
    yaml_path
        YAML file; without it `EM_CONFIG_FILE`, else `config.yaml` where it exists.
    env_file
        File of `NAME=value` lines; without it `.env` where it exists.
    environment
        Process environment (default: `os.environ`).
    overrides
        Command line settings, `section.field` -> text.

    Raises
    ------
    ConfigError
        An unknown key or a wrong value; the sentence names the key and its layer.
    """
    environment = os.environ if environment is None else environment
    dotenv = _read_env_file(env_file)
    tree: Tree = {}
    sources: Sources = {}
    path = _yaml_path(yaml_path, {**dotenv, **environment})
    if path is not None:
        _merge(
            tree, _read_yaml(path, {**dotenv, **environment}), f"YAML {path}", sources
        )
    for values, layer in ((dotenv, ".env"), (environment, "environment")):
        _merge(tree, _tree_of_variables(values, layer), layer, sources)
    _merge(tree, _tree_of_overrides(overrides or {}), "command line", sources)
    return _validate(tree, sources)


def _yaml_path(given: Path | None, environment: Mapping[str, str]) -> Path | None:
    if given is None and environment.get("EM_CONFIG_FILE"):
        given = Path(environment["EM_CONFIG_FILE"])
    if given is not None:
        return given
    default = Path("config.yaml")
    return default if default.is_file() else None


def _read_env_file(path: Path | None) -> dict[str, str]:
    if path is not None and not path.is_file():
        raise ConfigError(
            f".env: no file {path}; name an existing file or leave it out"
        )
    found = dotenv_values(path or ".env")
    return {name: value for name, value in found.items() if value is not None}


def _read_yaml(path: Path, environment: Mapping[str, str]) -> Tree:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"YAML {path}: cannot be read ({error.strerror}); name an existing file"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"YAML {path}: not valid YAML ({error}); correct it"
        ) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"YAML {path}: found a {type(loaded).__name__}, expected sections; "
            "start it with a section such as 'storage:'"
        )
    return {key: _substitute(value, environment, path) for key, value in loaded.items()}


def _substitute(value: object, environment: Mapping[str, str], path: Path) -> object:
    if isinstance(value, dict):
        return {k: _substitute(v, environment, path) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(v, environment, path) for v in value]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if name in environment:
            return environment[name]
        if default is None:
            raise ConfigError(
                f"YAML {path}: ${{{name}}} has no value and no default; "
                f"set {name} or write ${{{name}:default}}"
            )
        return default

    return _REFERENCE.sub(found, value)


def _tree_of_variables(values: Mapping[str, str], layer: str) -> Tree:
    tree: Tree = {}
    for name, value in values.items():
        if name in ALIASES:
            _put(tree, ALIASES[name], value)
        elif name.startswith(_PREFIX) and "__" in name:
            _put(tree, tuple(name.removeprefix(_PREFIX).lower().split("__")), value)
        elif name == "EM_HOME":
            _put(tree, ("home",), value)
    return tree


def _tree_of_overrides(overrides: Mapping[str, str]) -> Tree:
    tree: Tree = {}
    for dotted, value in overrides.items():
        _put(tree, tuple(dotted.split(".")), value)
    return tree


def _put(tree: Tree, path: tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _merge(
    tree: Tree, layer: Tree, name: str, sources: Sources, at: tuple[str, ...] = ()
) -> None:
    for key, value in layer.items():
        here = (*at, str(key))
        if isinstance(value, dict) and isinstance(tree.get(key, {}), dict):
            _merge(tree.setdefault(key, {}), value, name, sources, here)
        else:
            tree[key] = value
            sources[here] = name


def _validate(tree: Tree, sources: Sources) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentences(error, sources))) from error


def _sentences(error: ValidationError, sources: Sources) -> list[str]:
    sentences = []
    for problem in error.errors():
        where = tuple(str(part) for part in problem["loc"])
        layer = _layer_of(where, sources)
        dotted = ".".join(where)
        if problem["type"] == "extra_forbidden":
            sentences.append(
                f"{layer}: unknown setting {dotted}; "
                "'em-platform config' lists those that exist"
            )
        else:
            sentences.append(
                f"{layer}: {dotted} = {problem['input']!r}: {problem['msg']}; "
                "correct it there"
            )
    return sentences


def _layer_of(where: tuple[str, ...], sources: Sources) -> str:
    for length in range(len(where), 0, -1):
        if where[:length] in sources:
            return sources[where[:length]]
    below = [layer for path, layer in sources.items() if path[: len(where)] == where]
    return below[-1] if below else "defaults"
