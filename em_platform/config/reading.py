"""Files and texts that people name: read to a limit, and never waited for.

A pipe blocks who opens it, a device has no end, and a few lines of YAML can stand for
more values than any memory holds.
"""

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 1 << 22
"""Of a file of settings; ours with all comments has 50 kB."""
_MOST_VALUES = 100_000
_MOST_DEPTH = 50

# Of libyaml where PyYAML has it: ten times faster, and a run reads its settings often.
_Fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9]\d*|0x[\da-fA-F]+)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"(?:[-+]?(?:\d+\.\d*|\.\d+)(?:[eE][-+]\d+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
"""Those that YAML 1.2 has as well."""


class _Words(_Fast):  # type: ignore[misc, valid-type]
    """YAML without the numbers of 1.1 that nobody means, and without a key twice.

    `64_0_64_8_8_8` is a crop; 1.1 takes `0777` for 511, and `12:30` for 750.
    """

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        _refuse_twice(node)
        return node


_Words.yaml_implicit_resolvers = {
    first: [(tag, _NUMBERS.get(tag, words)) for tag, words in kinds]
    for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _refuse_twice(root: Any) -> None:
    """Refuse a key that stands twice in a mapping; the last would win unseen."""
    waiting, known = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in known or not isinstance(node, yaml.CollectionNode):
            continue
        known.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            waiting.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue  # whoever makes a key of it refuses it
            line = key.start_mark.line + 1
            if before := lines.get((key.tag, key.value)):
                raise ValueError(
                    f"the key {key.value[:80]} stands twice, in lines {before} and "
                    f"{line}; leave one of them out"
                )
            lines[key.tag, key.value] = line


def check_regular(path: str | Path) -> None:
    """Refuse what is there and is neither a file nor a folder, before it is opened.

    Raises
    ------
    OSError
        Nothing is there, or a pipe, a device or a socket.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device and not a file", path)


def read_regular(path: str | Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """All of a file of at most so many bytes.

    Raises
    ------
    OSError
        It cannot be read, is no file, or is longer.
    """
    check_regular(path)
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it has more than {most_bytes} bytes", path)
    return content


def parse_yaml(text: str) -> Any:
    """What a YAML text says.

    Raises
    ------
    ValueError
        It is no YAML, has NUL, itself or a key twice within, or stands for too many
        or too deep values.
    """
    try:
        _check_depth(text)
        found = yaml.load(text, _Words)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    _count(found, {}, depth=0)
    return found


def _check_depth(text: str) -> None:
    """Refuse deep nesting by events: libyaml's own loader ends the process by it."""
    depth = 0
    for event in yaml.parse(text, _Fast):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH:
            raise ValueError(f"it has more than {_MOST_DEPTH} values in each other")


def _count(value: Any, known: dict[int, int], *, depth: int) -> int:
    """How many values a value stands for when each of its aliases is written out."""
    if isinstance(value, str) and "\0" in value:
        # No path, name or variable of the environment can have it.
        raise ValueError(f"its text {value[:80]!r} has the character NUL")
    if not isinstance(value, dict | list | set | tuple):
        return 1
    # 0 while it is counted: what is met again then contains itself.
    if known.get(id(value)) == 0 or depth > _MOST_DEPTH:
        raise ValueError("it contains itself, or aliases that do so in turn")
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = 0
    below = value.values() if isinstance(value, dict) else value
    count = 1 + sum(_count(each, known, depth=depth + 1) for each in below)
    if count > _MOST_VALUES:
        raise ValueError(f"it stands for more than {_MOST_VALUES} values")
    known[id(value)] = count
    return count
