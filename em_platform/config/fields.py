"""Each single setting: its dotted name, its environment name, its type and default."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr

from em_platform.config.settings import Settings
from em_platform.model import Model

PREFIX = "EM_"
KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingField:
    """One setting that can be set in every layer."""

    path: KeyPath
    kind: Any
    default: Any
    limits: str

    @property
    def name(self) -> str:
        """`section.field`, as on the command line."""
        return ".".join(self.path)

    @property
    def environment_name(self) -> str:
        """`EM_SECTION__FIELD`, as in the environment and in `.env`."""
        return PREFIX + "__".join(self.path).upper()

    @property
    def is_text(self) -> bool:
        """Whether a text is taken as it is, and not read as a number or a list."""
        choices = get_args(self.kind) if get_origin(self.kind) is Literal else ("",)
        # A Literal may be of numbers, as `bit_depth` is: those YAML must read.
        is_plain = (
            self.kind in (str, SecretStr, Path) or get_origin(self.kind) is Literal
        )
        return is_plain and all(isinstance(choice, str) for choice in choices)

    @property
    def is_secret(self) -> bool:
        """Whether the value is never shown."""
        return self.kind is SecretStr


def section(path: KeyPath) -> type[Model] | None:
    """The model of the section at `path`; the empty path is all settings."""
    model: type[Model] = Settings
    for key in path:
        field = model.model_fields.get(key)
        if field is None or not _is_section(field.annotation):
            return None
        model = field.annotation  # type: ignore[assignment]
    return model


def sections() -> tuple[tuple[KeyPath, type[Model]], ...]:
    """Every section that has settings of its own, in the order of the file."""
    paths = dict.fromkeys(field.path[:-1] for field in FIELDS.values())
    return tuple((path, section(path) or Settings) for path in paths)


def _walk(model: type[Model], at: KeyPath) -> Iterator[SettingField]:
    # A section's own settings first, as YAML and the reference page show them.
    plain = {
        k: f for k, f in model.model_fields.items() if not _is_section(f.annotation)
    }
    for key, field in plain.items():
        limits = ", ".join(limits_of(field.metadata))
        default = field.get_default(call_default_factory=True)
        yield SettingField(
            path=(*at, key), kind=field.annotation, default=default, limits=limits
        )
    for key, field in model.model_fields.items():
        if key not in plain:
            yield from _walk(field.annotation, (*at, key))  # type: ignore[arg-type]


def limits_of(metadata: list[Any]) -> Iterator[str]:
    """The bounds of a field's numbers, as `≥ 0`."""
    for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
        for limit in metadata:
            if hasattr(limit, name):
                yield f"{sign} {getattr(limit, name)}"


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Model)


FIELDS = {field.path: field for field in _walk(Settings, ())}
"""Path -> its setting; plain settings of a section before its subsections."""
