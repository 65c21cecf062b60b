"""Named sets of settings, YAML files that build on each other: `sim`, `T1` ...

A profile is a layer between the defaults and `config.yaml`. `extends` names another one
(or several, later ones win) that it starts from, and `null` takes away what those set.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from em_platform.config import fields, layers
from em_platform.errors import ConfigError
from em_platform.model.sentences import nearest

VARIABLE = "EM_PROFILE"
"""The environment variable that names the profile: one of ours, or a file."""

_FOLDER = Path(__file__).parent


def shipped() -> tuple[str, ...]:
    """The names of the profiles that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def resolved(name: str) -> str:
    """`name` as a child process in another folder understands it, too.

    Raises
    ------
    ConfigError
        There is no such profile and no such file.
    """
    return name if name in shipped() else str(_path_of(name, Path.cwd()))


def read_profile(
    name: str, environment: Mapping[str, str]
) -> Iterator[tuple[str, layers.Layer]]:
    """The layers of a profile, what it extends first, each with its name.

    A setting with the value None is to be taken away.

    Raises
    ------
    ConfigError
        No such profile, a circle of `extends`, or a file that is not as it should be.
    """
    yield from _read(_path_of(name, Path.cwd()), environment, above=())


def _read(
    path: Path, environment: Mapping[str, str], *, above: tuple[Path, ...]
) -> Iterator[tuple[str, layers.Layer]]:
    who = f"profile {_short(path)}"
    if path in above:
        names = " -> ".join(_short(each) for each in (*above, path))
        raise ConfigError(f"{who}: extends itself ({names}); break the circle")
    # A copy, since `extends` is no setting and is taken out.
    loaded = dict(layers.load_yaml(path, who))
    for base in _bases(loaded.pop("extends", None), who):
        yield from _read(_path_of(base, path.parent), environment, above=(*above, path))
    yield who, layers.of_tree(_with_whole_sections(loaded), who, environment)


def _bases(given: Any, who: str) -> list[str]:
    names = [given] if isinstance(given, str) else given or []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ConfigError(
            f"{who}: extends is {given!r}, expected the name of a profile or a list "
            "of names; write for instance 'extends: common'"
        )
    return names


def _path_of(name: str, folder: Path) -> Path:
    """The file of a profile: one of ours by its name, or a path seen from `folder`."""
    if name in shipped():
        return _FOLDER / f"{name}.yaml"
    path = (folder / name).absolute()
    if path.is_file():
        return path
    raise ConfigError(
        f"profile {name}: neither a file nor one of {', '.join(shipped())}"
        f"{nearest(name, list(shipped()))}; name one of them or an existing file"
    )


def _short(path: Path) -> str:
    return path.stem if path.parent == _FOLDER else str(path)


def _with_whole_sections(
    tree: Mapping[str, Any], at: fields.KeyPath = ()
) -> dict[str, Any]:
    """The same, with each section that is null as all of its settings, null."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = (*at, str(key))
        model = fields.section(path)
        if model is not None and value is None:
            value = dict.fromkeys(model.model_fields)
        found[key] = (
            _with_whole_sections(value, path) if isinstance(value, dict) else value
        )
    return found
