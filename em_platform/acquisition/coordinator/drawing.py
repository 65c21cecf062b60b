"""A picture of the machine, from the machine itself."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transitions.extensions.nesting import NestedEvent, NestedState

from em_platform.acquisition.coordinator.publisher import Publisher
from em_platform.acquisition.coordinator.requirements import STATES
from em_platform.acquisition.coordinator.service import machine_of
from em_platform.acquisition.machines.loop import Loop
from em_platform.acquisition.machines.machine import context_of
from em_platform.config import Settings
from em_platform.errors import ConfigError, ToolFailed, ToolMissing
from em_platform.storage.guard import check_file, mark_of, marked_png, write_file

Names = tuple[str, ...]

_DRAWING = "state machine"  # the mark of our files: others are not overwritten

_NEW_LINE = "\\n"  # as graphviz has it in a label, not a line end
# compound: else graphviz ignores ltail and lhead
_HEAD = """digraph "em_platform state machine" {
  rankdir=LR; compound=true; newrank=true; fontname="sans-serif"; nodesep=0.25;
  node [shape=box, style="rounded,filled", fillcolor=white, fontname="sans-serif"];
  edge [fontname="sans-serif", fontsize=10, color="#555555"];
"""


@dataclass(frozen=True, slots=True)
class Node:
    """One state, where it is, and the states in it."""

    path: Names
    inner: "tuple[Node, ...]"
    initial: str | None

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path[-1]


@dataclass(frozen=True, slots=True)
class Arrow:
    """All transitions from one state to another."""

    source: Names
    dest: Names
    labels: tuple[str, ...]


def draw(path: Path) -> None:
    """Draw the machine: `.dot` or `.mmd` as text, `.svg` or `.png` by graphviz.

    Raises
    ------
    ToolMissing
        There is no graphviz on this computer.
    ToolFailed
        Graphviz could not draw it.
    ConfigError
        The file's name ends otherwise.
    """
    check_file(path, _DRAWING)
    kind = path.suffix.lower()
    if kind not in (".dot", ".mmd", ".svg", ".png"):
        raise ConfigError(
            f"draw: {path} was asked for, a name that ends in .dot, .mmd, .svg or .png "
            "was expected; choose one of these"
        )
    nodes, arrows = picture()
    if kind == ".mmd":
        content = mermaid(nodes, arrows).encode()
    elif kind == ".dot":
        content = dot(nodes, arrows).encode()
    else:
        content = _rendered(dot(nodes, arrows), kind[1:])
        if kind == ".png":
            content = marked_png(content, _DRAWING)
    write_file(path, content, _DRAWING)


def picture() -> tuple[tuple[Node, ...], tuple[Arrow, ...]]:
    """All states, nested, and all arrows between them; a routine is one state."""
    settings = Settings()
    machine: Any = machine_of(
        settings,
        context_of(settings),
        loop=Loop(),
        # no bus: a drawing needs no broker
        publisher=Publisher(lambda *_, **__: None),
    )
    merged: dict[tuple[Names, Names], list[str]] = {}
    for inner_source, inner_dest, label in _transitions(
        (), machine.states, machine.events
    ):
        source, dest = _folded(inner_source), _folded(inner_dest)
        # what moves inside a routine is no arrow of the picture
        is_within = source == dest and source != inner_source
        labels = merged.setdefault((source, dest), []) if not is_within else []
        if label not in labels:
            labels.append(label)
    arrows = tuple(Arrow(*ends, tuple(labels)) for ends, labels in merged.items())
    return _nodes((), machine.states), arrows


def dot(nodes: tuple[Node, ...], arrows: tuple[Arrow, ...]) -> str:
    """The picture in the language of graphviz."""
    by_path = dict(_all(nodes))
    lines = [_HEAD, *_dot_nodes(nodes, depth=1)]
    for arrow in arrows:
        source, dest = by_path[arrow.source], by_path[arrow.dest]
        label = _NEW_LINE.join(arrow.labels)
        options = [f'label="{label}"']
        # graphviz joins leaves only; ltail and lhead cut the arrow at the cluster
        if source.inner and dest.path[: len(source.path)] != source.path:
            options.append(f'ltail="cluster_{_id(source.path)}"')
        if dest.inner and source.path[: len(dest.path)] != dest.path:
            options.append(f'lhead="cluster_{_id(dest.path)}"')
        ends = f"{_id(_leaf(source).path)} -> {_id(_leaf(dest).path)}"
        lines.append(f"  {ends} [{', '.join(options)}];")
    return "\n".join([*lines, "}", ""])


def mermaid(nodes: tuple[Node, ...], arrows: tuple[Arrow, ...]) -> str:
    """The picture in the language of mermaid, as documentation pages draw it."""
    mark = f"%% {mark_of(_DRAWING).decode()}"
    lines = ["stateDiagram-v2", mark, *_mermaid_nodes(nodes, depth=1)]
    for arrow in arrows:
        ends = f"{_id(arrow.source)} --> {_id(arrow.dest)}"
        lines.append(f"  {ends} : {', '.join(arrow.labels)}")
    return "\n".join([*lines, ""])


def _nodes(scope: Names, states: Mapping[str, NestedState]) -> tuple[Node, ...]:
    found = []
    for name, state in states.items():
        path = (*scope, name)
        # a routine's own steps would make the picture unreadable
        inner = () if name in STATES.values() else _nodes(path, state.states)
        found.append(Node(path, inner, state.initial))
    return tuple(found)


def _folded(path: Names) -> Names:
    """The state, or the routine that it is a part of."""
    for number, name in enumerate(path, start=1):
        if name in STATES.values():
            return path[:number]
    return path


def _transitions(
    scope: Names, states: Mapping[str, NestedState], events: Mapping[str, NestedEvent]
) -> Iterator[tuple[Names, Names, str]]:
    for trigger, event in events.items():
        for transitions in event.transitions.values():
            for each in transitions:
                # `_` separates nested states in transitions: no name of a state has one
                source = (*scope, *each.source.split("_"))
                # without an own one it stays where it is
                dest = (*scope, *(each.dest or each.source).split("_"))
                yield source, dest, _label(trigger, each)
    for name, state in states.items():
        yield from _transitions((*scope, name), state.states, state.events)


def _label(trigger: str, transition: Any) -> str:
    conditions = [_called(each.func) for each in transition.conditions]
    return f"{trigger} [{', '.join(conditions)}]" if conditions else trigger


def _called(function: Any) -> str:
    """The name of a method, also of one that is wrapped by a lock or a partial."""
    arguments = getattr(function, "args", ())
    if arguments and callable(arguments[0]):
        return _called(arguments[0])
    if arguments:
        return f"wants {arguments[0]}"
    return str(getattr(function, "__name__", function)).strip("_")


def _dot_nodes(nodes: tuple[Node, ...], *, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for node in nodes:
        if not node.inner:
            colour = ', fillcolor="#f6d5cf"' if node.name == "Failure" else ""
            yield f'{indent}{_id(node.path)} [label="{node.name}"{colour}];'
            continue
        shade = ("#dfe8f3", "#eef3f8", "#f7fafc", "#ffffff")[min(depth, 4) - 1]
        yield f"{indent}subgraph cluster_{_id(node.path)} {{"
        yield f'{indent}  label="{node.name}"; style="rounded,filled"; '
        yield f'{indent}  fillcolor="{shade}"; color="#8aa0b8";'
        yield from _dot_nodes(node.inner, depth=depth + 1)
        yield f"{indent}}}"


def _mermaid_nodes(nodes: tuple[Node, ...], *, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for node in nodes:
        named = f'{indent}state "{node.name}" as {_id(node.path)}'
        if not node.inner:
            yield named
            continue
        yield f"{named} {{"
        if node.initial:
            yield f"{indent}  [*] --> {_id((*node.path, *node.initial.split('_')))}"
        yield from _mermaid_nodes(node.inner, depth=depth + 1)
        yield f"{indent}}}"


def _all(nodes: tuple[Node, ...]) -> Iterator[tuple[Names, Node]]:
    for node in nodes:
        yield node.path, node
        yield from _all(node.inner)


def _leaf(node: Node) -> Node:
    """The state without states in which one is after entering `node`."""
    while node.inner:
        first = node.inner[0]
        # the initial state may be named by its path
        wanted = (node.initial or first.name).split("_")[0]
        node = next((each for each in node.inner if each.name == wanted), first)
    return node


def _id(path: Names) -> str:
    return "_".join(path)


def _rendered(source: str, kind: str) -> bytes:
    program = shutil.which("dot")
    if program is None:
        raise ToolMissing(
            f"draw: graphviz draws .{kind} and its program dot is not installed; "
            "install graphviz, or ask for a .dot or .mmd file"
        )
    done = subprocess.run(
        [program, f"-T{kind}"], input=source.encode(), capture_output=True, check=False
    )
    if done.returncode:
        raise ToolFailed(
            f"draw: dot ended with {done.returncode}: "
            f"{done.stderr.decode(errors='replace').strip()[:300]}; ask for a .dot file"
        )
    return done.stdout
