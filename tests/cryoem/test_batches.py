"""Particles come into batches of one size, each once."""

from pathlib import Path
from typing import Any

import pytest
import starfile

from em_platform.cryoem.services import load_service
from em_platform.cryoem.services.step import ServiceContext, handle_message
from em_platform.errors import FormatError, MessageRejected


def extracted(project: Path, name: str, particles: int) -> Path:
    """The table of a micrograph's particles."""
    path = project / f"Extract/job008/Movies/{name}/particles.star"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "\n".join(f"{i} 5 {i:06}@{name}.mrcs" for i in range(1, particles + 1))
    path.write_text(
        "data_particles\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
        f"_rlnImageName #3\n{rows}\n"
    )
    return path


def select(path: Path, size: int, **more: Any) -> tuple[list[str], list[str]]:
    """The tables that are reported to the project and to Murfey."""
    message = {"input_file": str(path), "batch_size": size, "image_size": 64, **more}
    handler = load_service("SelectParticles")
    sent = handle_message(handler, {}, message, ServiceContext(ispyb_url="sqlite://"))
    nodes = [Path(m.body["output_file"]) for m in sent if m.queue == "node_creator"]
    feedback = [m.body for m in sent if m.queue == "murfey_feedback"]
    assert feedback.pop() == {"register": "done_particle_selection"}
    found = []
    for each in feedback:
        asked = each["class2d_message"]
        assert asked["batch_size"] == size
        assert asked["class2d_dir"].endswith("/Class2D/job")
        kind = each["register"].removesuffix("_particles_file")
        found.append(f"{kind} {Path(asked['particles_file']).name}")
    assert all(node.parent.name == "job009" for node in nodes)
    return [node.name for node in nodes], found


def batches(project: Path) -> list[list[str]]:
    tables = sorted((project / "Select/job009").glob("particles_split*.star"))
    found = [starfile.read(path, always_dict=True)["particles"] for path in tables]
    return [
        [f"{n.split('/')[-2]}{int(n[:6])}" for n in each.rlnImageName] for each in found
    ]


SPLIT = "particles_split{}.star"


def test_messages_are_those_of_upstream(tmp_path: Path) -> None:
    five = extracted(tmp_path, "a", 5)
    one, two, three = (SPLIT.format(n) for n in (1, 2, 3))
    # Five particles in batches of two: as upstream's own test has it.
    assert select(five, 2) == ([three], [f"complete {one}", f"complete {two}"])
    assert batches(tmp_path) == [["a1", "a2"], ["a3", "a4"], ["a5"]]
    # One more fills the last batch: no news of it.
    assert select(extracted(tmp_path, "b", 1), 2) == ([], [])
    assert batches(tmp_path)[2] == ["a5", "b1"]


def test_the_first_batch_is_classified_as_it_grows(tmp_path: Path) -> None:
    one, two = SPLIT.format(1), SPLIT.format(2)
    given = {"incomplete_batch_size": 4}
    first, second, third = (extracted(tmp_path, n, 3) for n in "abc")
    assert select(first, 8, **given) == ([one], [f"incomplete {one}"])
    assert select(second, 8, **given) == ([one], [f"incomplete {one}"])  # 3 -> 6
    assert select(extracted(tmp_path, "d", 1), 8, **given) == ([one], [])  # 6 -> 7
    assert select(third, 8, **given) == ([two], [f"complete {one}"])
    assert [len(each) for each in batches(tmp_path)] == [8, 2]


def test_a_message_that_comes_again_changes_nothing(tmp_path: Path) -> None:
    paths = [extracted(tmp_path, name, 3) for name in "ab"]
    sent = [select(path, 4) for path in paths]
    before = batches(tmp_path)
    files = [p.read_bytes() for p in sorted(tmp_path.glob("Select/job009/*"))]
    # What was sent of a batch that is full by now need not be sent again.
    assert (
        select(paths[1], 4)
        == sent[1]
        == ([SPLIT.format(2)], ["complete " + SPLIT.format(1)])
    )
    assert select(paths[0], 4) == ([], [])
    assert batches(tmp_path) == before
    assert files == [p.read_bytes() for p in sorted(tmp_path.glob("Select/job009/*"))]


def test_particles_that_are_no_more_leave_their_batches(tmp_path: Path) -> None:
    for name in "ab":
        select(extracted(tmp_path, name, 3), 4)
    assert batches(tmp_path) == [["a1", "a2", "a3", "b1"], ["b2", "b3"]]
    select(extracted(tmp_path, "b", 1), 4)  # picked again, with fewer
    select(extracted(tmp_path, "a", 2), 4)
    assert batches(tmp_path) == [["a1", "a2", "b1"], []]
    select(extracted(tmp_path, "c", 1), 4)
    assert batches(tmp_path) == [["a1", "a2", "b1"], ["c1"]]


def test_what_is_no_table_of_particles_is_one_sentence(tmp_path: Path) -> None:
    path = extracted(tmp_path, "a", 1)
    with pytest.raises(MessageRejected, match="lies in no job"):
        select(tmp_path / "particles.star", 4)
    path.write_text("data_other\n_x 1\n")
    with pytest.raises(FormatError, match="has no table particles"):
        select(path, 4)
