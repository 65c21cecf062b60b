"""Read broken input for minutes: `python -m benchmarks fuzz --minutes N [--seed S]`.

Small valid files, folders, lists, settings and messages are changed at random and read
in a process with bounded memory. A case is right when it gives an answer or one
sentence; anything else (a traceback, more than one line, 400 MB, 20 s, something left
over, the end of the process) is printed as a finding with the case that repeats it.
"""

import argparse
import json
import random
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.fuzz_cases import SHARES, TARGETS, run_case, write_seeds

REPOSITORY = Path(__file__).resolve().parent.parent
MOST_S, MOST_BYTES = 20.0, 400 << 20
_ADDRESSES = 6 << 30  # libraries reserve much more than they use


def main(arguments: list[str]) -> int:
    """The status: 0 where nothing was found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks fuzz", description=__doc__
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", help="repeat one, such as 'file 12'; full traceback")
    parser.add_argument("--corpus", type=Path, help="write the worst 300 cases here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        return serve()
    if given.case:
        return repeat(given.case)
    found = fuzz(given.minutes * 60, seed=given.seed)
    if given.corpus:
        given.corpus.write_text("\n".join(found.worst()) + "\n")
    return found.print()


class Found:
    """What came out of all cases."""

    def __init__(self) -> None:
        self.cases = 0
        self.findings: dict[str, list[str]] = {}
        self.by_sentence: dict[tuple[str, str], tuple[float, str]] = {}
        self.answers: Counter[str] = Counter()

    def add(self, case: str, answer: dict[str, Any], seconds: float) -> None:
        """One case and how it ended."""
        self.cases += 1
        target = case.partition(" ")[0]
        if answer["wrong"]:
            cases = self.findings.setdefault(f"{target}: {answer['wrong']}", [])
            cases.append(case)
            if len(cases) == 1:
                print(f"FOUND {case}: {answer['wrong']}", flush=True)
        self.answers["refused" if answer["sentence"] else "read"] += 1
        # Numbers and names apart, a sentence is a place in the code.
        kind = re.sub(r"'[^']*'|\S*[/\d]\S*", "", answer["sentence"])[:60]
        if seconds > self.by_sentence.get((target, kind), (-1.0, ""))[0]:
            self.by_sentence[target, kind] = (seconds, case)

    def worst(self, most: int = 300) -> list[str]:
        """The findings, then of each kind of answer the case that took longest."""
        first = [case for cases in self.findings.values() for case in cases[:5]]
        slow = sorted(self.by_sentence.values(), reverse=True)
        # A stitch takes a hundred times what others do.
        rest = [case for _, case in slow if not case.startswith("stitch")]
        return list(dict.fromkeys(first + rest))[:most]

    def print(self) -> int:
        """A line for each finding; the status."""
        print(f"{self.cases} cases, {dict(self.answers)}")
        for what, cases in sorted(self.findings.items(), key=lambda f: -len(f[1])):
            print(f"{len(cases):6} x {what} (first: --case '{cases[0]}')")
        return 1 if self.findings else 0


def fuzz(seconds: float, *, seed: int) -> Found:
    """Run cases until the time is over; a worker that ends is started again."""
    found, draw = Found(), random.Random(seed)
    end = time.monotonic() + seconds
    weights = [SHARES.get(name, 2) for name in TARGETS]
    worker = None
    try:
        while time.monotonic() < end:
            worker = worker or start()
            (target,) = draw.choices(list(TARGETS), weights)
            case = f"{target} {draw.randrange(10**9)}"
            begun = time.monotonic()
            answer = ask(worker, case)
            if answer is None:
                worker.kill()
                status, worker = worker.wait(), None
                hung = time.monotonic() - begun >= MOST_S
                why = f"more than {MOST_S:g} s" if hung else f"ended by {status}"
                answer = {"wrong": why, "sentence": ""}
            found.add(case, answer, time.monotonic() - begun)
    finally:
        if worker is not None:
            worker.kill()
            worker.wait()
    return found


def start() -> "subprocess.Popen[str]":
    """A worker that has written its valid files."""
    command = [sys.executable, "-m", "benchmarks", "fuzz", "--worker"]
    worker = subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert worker.stdout is not None
    worker.stdout.readline()
    return worker


def ask(worker: "subprocess.Popen[str]", case: str) -> dict[str, Any] | None:
    """What a worker says of a case; None where it says nothing in time."""
    assert worker.stdin is not None and worker.stdout is not None
    try:
        print(case, file=worker.stdin, flush=True)
    except BrokenPipeError:
        return None
    ready, _, _ = select.select([worker.stdout], [], [], MOST_S)
    line = worker.stdout.readline() if ready else ""
    return dict(json.loads(line)) if line else None


def serve() -> int:
    """Answer cases from stdin, one JSON a line, until it ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as place:
        seeds, folder = Path(place, "seeds"), Path(place, "case")
        write_seeds(seeds)
        for target in TARGETS:  # imports and compilation are no case's fault
            answer_of(f"{target} 0", seeds, folder)
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(answer_of(line.strip(), seeds, folder)), flush=True)
    return 0


def answer_of(case: str, seeds: Path, folder: Path) -> dict[str, str]:
    """The outcome of a case, or the last places of its traceback."""
    before = peak_bytes()
    folder.mkdir()
    try:
        outcome = run_case(case, seeds=seeds, folder=folder)
        wrong, sentence = outcome.wrong, outcome.sentence
    except Exception as error:
        steps = traceback.extract_tb(error.__traceback__)
        ours = [s for s in steps if "em_platform/" in s.filename] or steps[-1:]
        last = ours[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        wrong, sentence = f"{type(error).__name__} at {place}", ""
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    more = peak_bytes() - before
    if not wrong and more > MOST_BYTES:
        wrong = f"more than {MOST_BYTES >> 20} MB"
    return {"wrong": wrong, "sentence": sentence}


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def repeat(case: str) -> int:
    """Run one case here, with its traceback."""
    with tempfile.TemporaryDirectory() as place:
        seeds, folder = Path(place, "seeds"), Path(place, "case")
        write_seeds(seeds)
        folder.mkdir()
        print(run_case(case, seeds=seeds, folder=folder))
    return 0
