"""Small changes to valid content, drawn from a random generator that has a seed."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

# What programs, disks and people put where something else was expected.
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "0", "-1", "nan", "\0", "a\nb", "../..", "/dev/zero"),
    *("y" * 5000, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e-300, 1e308),
    *(-1e308, float("nan"), float("inf"), [], {}, [[]], [0], [1, 2], [1] * 6),
    *(
        ["x", "y", "z"],
        {"a": 1},
        [{}],
        [None],
        {"type": "scale"},
        "<u2",
        "|O",
        "float16",
    ),
)
WORDS = ("", "nan", "inf", "-1", "0", "1e308", "1e-9", "x", '"', ",", ";", "\t", "\0",
         "#", "&a [*a, *a]", "${HOME}", "{", "[", "9" * 400, "é", "\ufeff", "\r",
         "\u2028", "%s", "!!python/object:os.system", "1_000", "y" * 3000)  # fmt: skip


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """Content with one to six places changed, cut, doubled or moved."""
    found = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        if not found:
            break
        at = _place(len(found), draw)
        width = draw.choice((1, 2, 4, 8))
        kind = draw.randrange(8)
        if kind <= 2:
            number = draw.choice(NUMBERS) if kind else draw.getrandbits(8 * width)
            number &= (1 << 8 * width) - 1
            order = draw.choice(("little", "big"))
            found[at : at + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
        elif kind == 3:
            found[at] ^= 1 << draw.randrange(8)
        elif kind == 4:
            del found[at : len(found) if draw.random() < 0.3 else at + width]
        elif kind == 5:
            found[at:at] = draw.randbytes(width)
        elif kind == 6:
            other = _place(len(found), draw)
            found[at : at + width] = found[other : other + width]
        else:
            found[at : at + width] = b"\xff" * width
    return bytes(found)


def _place(length: int, draw: random.Random) -> int:
    # Headers and directories are at the beginning, sometimes at the end.
    near = draw.random()
    if near < 0.5:
        return draw.randrange(min(length, 300))
    if near < 0.7:
        return length - 1 - draw.randrange(min(length, 300))
    return draw.randrange(length)


def mutated_json(content: bytes, draw: random.Random) -> bytes:
    """A JSON text with one to three of its values replaced, removed or nested."""
    tree = json.loads(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        holder = {"": tree}
        places = list(_places(holder))
        parent, key = draw.choice(places)
        _change(parent, key, draw)
        tree = holder.get("")
    text = json.dumps(tree)
    if draw.random() < 0.03:
        return mutated_text(text.encode(), draw)
    return text.encode()


def _places(holder: Any) -> Any:
    pairs = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, value in list(pairs):
        yield holder, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _change(parent: Any, key: Any, draw: random.Random) -> None:
    kind = draw.randrange(10)
    value = parent[key]
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = [value]
    elif kind == 2:
        parent[key] = {"a": value}
    elif kind == 3 and isinstance(value, list) and value:
        twice = draw.random() < 0.5
        parent[key] = value + copy.deepcopy(value) if twice else value[:-1]
    elif kind == 4:
        for _ in range(draw.choice((60, 200))):
            parent[key] = [parent[key]]
    elif kind == 5:
        parent[key] = json.dumps(value)
    elif kind == 6 and isinstance(value, int | float):
        number = value if abs(value) < 1e300 else 1
        parent[key] = draw.choice((-number, number * 1e6, number * 2**40, number + 0.5))
    else:
        # A copy: what is put in may be changed in turn.
        parent[key] = copy.deepcopy(draw.choice(VALUES))


def mutated_text(content: bytes, draw: random.Random) -> bytes:
    """A text with lines, words or characters changed."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, kind = draw.randrange(len(lines)), draw.randrange(7)
        line = lines[at]
        if kind == 0:
            lines[at] = ""
        elif kind == 1:
            lines.insert(at, draw.choice(lines))
        elif kind == 2:
            other = draw.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            spot = draw.randrange(len(line) + 1)
            lines[at] = line[:spot] + draw.choice(WORDS) + line[spot:]
        elif kind == 4:
            lines[at] = line[: draw.randrange(len(line) + 1)]
        else:
            lines[at] = _with_another_word(line, draw)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _with_another_word(line: str, draw: random.Random) -> str:
    for separator in draw.sample((",", ":", "=", " ", "\t"), 5):
        words = line.split(separator)
        if len(words) > 1:
            words[draw.randrange(len(words))] = draw.choice(WORDS)
            return separator.join(words)
    return draw.choice(WORDS)


_TEXTS = (
    *(".csv", ".yaml", ".mdoc", ".env", ".txt", ".star", ".cbox"),
    *(".rawtlt", ".tlt", ".xf", ".aln"),
)
Mutation = Callable[[bytes, random.Random], bytes]


def mutation_of(name: str, content: bytes, draw: random.Random) -> Mutation:
    """What suits a file: JSON is mostly changed by its values, the rest by bytes."""
    if content[:1] in (b"{", b"[") and draw.random() < 0.85:
        return mutated_json
    is_text = name.endswith(_TEXTS)
    return mutated_text if is_text and draw.random() < 0.85 else mutated_bytes
