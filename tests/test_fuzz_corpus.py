"""The worst cases that `python -m benchmarks fuzz` has found: an answer or a sentence.

`tests/data/fuzz_corpus.txt` names them by target and seed; the fuzzer writes the same
input again. Each was a traceback, gigabytes, or a kind of sentence of its own.
"""

import contextlib
import io
import time
from pathlib import Path

import pytest

from benchmarks.fuzz import MOST_S, answer_of
from benchmarks.fuzz_cases import TARGETS, write_seeds
from benchmarks.fuzz_mutations import mutated_bytes, mutated_json, mutated_text

CORPUS = Path(__file__).parent / "data/fuzz_corpus.txt"
CASES = {
    target: numbers.split()
    for target, _, numbers in (
        line.partition(":") for line in CORPUS.read_text().splitlines() if line
    )
}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    write_seeds(folder)
    return folder


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_the_worst_cases_end_with_an_answer_or_one_sentence(
    target: str, seeds: Path, tmp_path: Path
) -> None:
    wrong = {}
    for number in ("0", *CASES.get(target, ())):
        begun = time.process_time()
        # zarrs' codecs write what they think on stderr.
        with contextlib.redirect_stderr(io.StringIO()):
            answer = answer_of(f"{target} {number}", seeds, tmp_path / "case")
        if answer["wrong"] or time.process_time() - begun > MOST_S:
            wrong[number] = answer["wrong"] or "too slow"
    assert not wrong


def test_a_case_is_the_same_each_time() -> None:
    import random

    for change, content in (
        (mutated_bytes, bytes(range(256))),
        (mutated_json, b'{"a": [1, 2.5, {"b": "c"}]}'),
        (mutated_text, b"file,x_px\na.tif,1\n"),
    ):
        once, again = (
            [change(content, random.Random(f"file {n}")) for n in range(20)]
            for _ in range(2)
        )
        assert once == again
        assert sum(each != content for each in once) > 15


def test_a_header_of_a_proxy_that_is_missed_is_a_finding(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """round3 4.1: the operator's page takes such requests for its own account's."""
    monkeypatch.setattr("em_platform.processes.gate.is_forwarded", lambda _: False)
    wrong = {
        answer_of(f"forwarded {number}", seeds, tmp_path / "case")["wrong"]
        for number in range(30)
    }
    assert any(each.startswith("AssertionError") for each in wrong)


def test_a_fault_of_a_reader_is_a_finding(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a corpus without findings would say nothing."""
    monkeypatch.setitem(TARGETS, "file", lambda *_: {}["nothing"])
    answer = answer_of("file 1", seeds, tmp_path / "case")
    assert answer["wrong"].startswith("KeyError at")
    assert not (tmp_path / "case").exists()
