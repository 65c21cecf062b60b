"""Runs what a page of `docs/` shows, block by block, in a folder of its own.

- `console`: each line behind `$ ` is run by one bash, which keeps its variables; the
  lines below it must be in its output, in this order. `...` stands for any text.
- `bash`: the whole block is run by the same bash.
- `python`: run by one interpreter a page, which keeps its names.

A comment before a block says more about it:

- `<!-- file: NAME -->`: the block is written to this file, and not run.
- `<!-- status: 2 -->`: the exit status that the commands must end with.
- `<!-- not run: REASON -->`: shown only, as it needs hardware or the internet.

Blocks of another language, or of none, are shown only.
"""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

RUN = ("console", "bash", "python")
_END = "=== end of block"
_BLOCK = re.compile(
    r"(?:^[ ]*<!--[ ]*(?P<note>[^>]*?)[ ]*-->\n\n?)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.M | re.S,
)
_PYTHON = """
import json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    page, at, code = json.loads(line)
    status = 0
    try:
        exec(compile("\\n" * (at - 1) + code, page, "exec"), names)
    except BaseException:
        traceback.print_exc()
        status = 1
    print(f"\\n=== end of block {status}", flush=True)
"""
"""Lines are counted from the page's first, so that an error names the page's line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int
    note: str = ""

    def noted(self, kind: str) -> str:
        """What the comment before the block says of `kind`, or nothing."""
        name, _, value = self.note.partition(":")
        return value.strip() if name.strip() == kind else ""


def blocks_of(page: Path, replace: Mapping[str, str] | None = None) -> Iterator[Block]:
    """The fenced blocks of a page, from its top to its end."""
    text = page.read_text()
    for shown, meant in (replace or {}).items():
        assert shown in text, f"{page.name}: {shown!r} is not on this page"
        text = text.replace(shown, meant)
    for found in _BLOCK.finditer(text):
        indent = len(found["indent"])
        lines = [line[indent:] for line in found["text"].splitlines()]
        yield Block(
            language=found["language"],
            text="\n".join(lines) + "\n",
            line=text.count("\n", 0, found.start("text")) + 1,
            note=found["note"] or "",
        )


def run_page(
    page: Path,
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    replace: Mapping[str, str] | None = None,
    timeout_s: float = 100.0,
) -> list[str]:
    """Run the blocks of a page in `folder`; gives the output of each that was run.

    `replace` has what a reader puts in for a placeholder or a port of the page.
    `em-platform` and `.venv/bin/em-platform` are both found there. The test fails with
    the page's line where a block ends otherwise, or prints other lines, than it shows.
    """
    outputs = []
    with _sessions(folder, environment or {}) as sessions:
        for block in blocks_of(page, replace):
            if block.noted("file"):
                path = folder / block.noted("file")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            elif block.language in RUN and not block.noted("not run"):
                outputs.append(_run(block, page, sessions, timeout_s))
    assert outputs, f"{page.name}: no block of this page was run"
    return outputs


def _run(
    block: Block, page: Path, sessions: Mapping[str, "_Session"], timeout_s: float
) -> str:
    expected = int(block.noted("status") or 0)
    everything = []
    for code, shown in _parts(block):
        where = f"{page.name}, block at line {block.line}:\n{code}"
        if block.language == "python":
            line = json.dumps([str(page), block.line, code])
            status, output = sessions["python"].run(line, timeout_s)
        else:
            script = f"{{ {code.rstrip()}\n}} </dev/null\nprintf '\\n{_END} %s\\n' $?"
            status, output = sessions["bash"].run(script, timeout_s)
        if status != expected:
            pytest.fail(f"{where}\nstatus {status}, not {expected}:\n{output}")
        missing = _first_missing(shown, output)
        if missing is not None:
            pytest.fail(f"{where}\nno line {missing!r} in:\n{output}")
        everything.append(output)
    return "".join(everything)


def _parts(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Commands, each with the lines that the page shows below it."""
    if block.language == "bash":
        yield "set -e -o pipefail\n" + block.text + "\nset +e +o pipefail", []
    elif block.language == "python":
        yield block.text, []
    else:
        for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
            lines = part.splitlines()
            count = 1
            while lines[count - 1].endswith("\\"):
                count += 1
            yield "\n".join(lines[:count]), lines[count:]


def _first_missing(shown: list[str], output: str) -> str | None:
    """The first shown line that the output does not have in this order."""
    lines = iter([" ".join(line.split()) for line in output.splitlines()])
    for line in shown:
        parts = re.split(r" ?(?:\.\.\.|…) ?", " ".join(line.split()))
        pattern = re.compile(".*".join(map(re.escape, parts)))
        if any(parts) and not any(pattern.fullmatch(each) for each in lines):
            return line
    return None


class _Session:
    """A process that runs one piece of code after the other and says how each ended."""

    def __init__(
        self, command: list[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it with all that it has left in the background."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self._process.wait(10)
        self._input.close()
        self._output.close()

    def run(self, code: str, timeout_s: float) -> tuple[int, str]:
        """Exit status and output of `code`."""
        self._input.write(code.encode() + b"\n")
        self._input.flush()
        deadline, found = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if not selector.select(1.0):
                    continue
                part = os.read(self._output.fileno(), 1 << 16)
                found += part
                end = re.search(rf"\n{_END} (\d+)\n", found.decode(errors="replace"))
                if end is not None:
                    return int(end[1]), found.decode(errors="replace")[: end.start()]
                if not part:
                    return self._process.wait(10), found.decode(errors="replace")
        pytest.fail(f"not ended after {timeout_s:g} s:\n{found.decode()}")


@contextmanager
def _sessions(
    folder: Path, environment: Mapping[str, str]
) -> Iterator[dict[str, _Session]]:
    venv = Path(sys.prefix)
    if not (folder / ".venv").exists():
        (folder / ".venv").symlink_to(venv)
    variables = {
        **os.environ,
        "COLUMNS": "200",  # tables are compared with the page line by line
        **environment,
    }
    variables["PATH"] = f"{venv / 'bin'}{os.pathsep}{variables['PATH']}"
    with ExitStack() as stack:
        yield {
            "bash": stack.enter_context(
                _Session(["bash", "--norc"], folder, variables)
            ),
            "python": stack.enter_context(
                _Session([sys.executable, "-c", _PYTHON], folder, variables)
            ),
        }
