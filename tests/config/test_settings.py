"""Every setting is read somewhere, and says what it is for."""

import ast
from pathlib import Path

import pytest

import em_platform
from em_platform.config import FIELDS, SettingField
from em_platform.config.fields import section
from em_platform.model import Model

PACKAGE = Path(em_platform.__file__).parent


@pytest.fixture(scope="module")
def names_in_use() -> set[str]:
    """Attributes, and whole strings for `getattr`, in all code but the settings' own.

    Their own properties read settings, too.
    """
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if path.parent.name != "config":
                    found.add(node.value)
    return found


@pytest.mark.parametrize("field", FIELDS.values(), ids=lambda f: f.name)
def test_a_setting_is_read_somewhere(
    field: SettingField, names_in_use: set[str]
) -> None:
    assert field.path[-1] in names_in_use


@pytest.mark.parametrize("field", FIELDS.values(), ids=lambda f: f.name)
def test_a_setting_is_explained_in_its_section(field: SettingField) -> None:
    model = section(field.path[:-1])
    assert model is not None
    kinds = [kind for kind in model.__mro__ if issubclass(kind, Model)]
    text = " ".join(kind.__doc__ or "" for kind in kinds)
    assert f"`{field.path[-1]}" in text
