"""Tables as STAR text: also those without rows, which readers take for no particles."""

import math
import re
from collections.abc import Iterable, Sequence

from gemmi import cif

from em_platform.errors import RecordError

# What no reader takes for anything but a word.
_PLAIN = re.compile(r"(?!data_|loop_|save_|global_|stop_)[^\s_#$'\"\[\];][^\s]*", re.I)


def table(
    name: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, prefix: str
) -> str:
    """A block with one loop; the words of the rows are quoted already."""
    lines = [f"data_{name}", "", "loop_"]
    lines += [f"{prefix}{column} #{i}" for i, column in enumerate(columns, 1)]
    lines += [" ".join(row) for row in rows]
    return "\n".join([*lines, "", ""])


def word(value: str | float) -> str:
    """A text or a number as one word; not a number: 0, which readers can take.

    Raises
    ------
    RecordError
        No line can have the text.
    """
    if isinstance(value, str):
        # RELION 3.1 takes quotes for part of a name; `cif.quote` puts more than needed.
        quoted = value if _PLAIN.fullmatch(value) else cif.quote(value)
        if not quoted.isprintable():
            raise RecordError(
                f"STAR: found {value[:80]!r}, a text on one line and without both "
                "kinds of quotes was expected; name it otherwise"
            )
        return quoted
    return f"{value:.10g}" if math.isfinite(value) else "0"
