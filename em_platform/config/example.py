"""The example configuration file: every setting with its default, as a comment."""

import inspect
import json

from em_platform.config.fields import FIELDS, KeyPath, SettingField, sections

_HEAD = """\
# Settings of em_platform: every one, with its default. Take away the '#' before the
# ones that you change. This file is read from the folder in which you start, or from
# where EM_CONFIG_FILE says. Later layers win:
#   defaults < profile (EM_PROFILE) < this file < .env < environment (EM_SECTION__FIELD)
#   < --set section.field
# null takes away what the profile says: the default is back.
# ${NAME} or ${NAME:default} is replaced by the environment variable NAME.
# 'em-platform config' shows every value and the layer that it came from.
"""


def example_yaml() -> str:
    """The text of `config.yaml`: sections alive, settings commented out."""
    lines = [_HEAD]
    opened: set[KeyPath] = set()
    for path, model in sections():
        for length in range(1, len(path)):
            if path[:length] not in opened:
                opened.add(path[:length])
                lines.append(f"{_indent(path[:length])}{path[length - 1]}:")
        indent = _indent(path)
        doc = (inspect.getdoc(model) or "").splitlines()
        lines += [f"{indent}# {line}".rstrip() for line in doc]
        if path:
            opened.add(path)
            lines.append(f"{indent}{path[-1]}:")
        below = [field for field in FIELDS.values() if field.path[:-1] == path]
        lines += [f"{_indent(f.path)}# {f.path[-1]}: {shown(f)}" for f in below]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def shown(field: SettingField) -> str:
    """The default as YAML writes it; a secret's default is the empty text."""
    value = "" if field.is_secret else field.default
    if field.is_text:
        return json.dumps(str(value))
    return json.dumps(value)


def _indent(path: KeyPath) -> str:
    return "  " * (len(path) - 1)
