"""Measure how a package is built: `python -m benchmarks house [--path FOLDER]`.

Everything is read from the source with `ast` and `tokenize`; nothing is imported.
`--by-room` gives a line a room, `--list one-caller` (or another) names the findings.
Decision 27 tells what each figure means and what it was before.
"""

import argparse
import ast
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.source import (
    FUNCTIONS,
    Calls,
    Function,
    Module,
    components,
    longest_path,
    read_modules,
)

PACKAGE = Path(__file__).resolve().parent.parent / "em_platform"
# The last words of a language that nobody else speaks (decision 27).
# Each is in no text, not in this line either; tests/test_house.py looks for them.
WORDS = re.compile(r"\b(to[l]d|sa[i]d|(un)?hear[d]|held[_]up)\b", re.IGNORECASE)
MAPPINGS = {"dict", "Mapping", "MutableMapping", "defaultdict"}


@dataclass(frozen=True, order=True, kw_only=True)
class Finding:
    """A place in the source, and what is there."""

    room: str
    path: str
    line: int
    what: str


class House:
    """A package's modules, and what can be counted in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.modules = {module.name: module for module in read_modules(self.folder)}
        if not self.modules:
            raise SystemExit(f"house: no Python file below {folder}; name a package")

    def finding(self, module: Module, line: int, what: str) -> Finding:
        path = str(module.path.relative_to(self.folder.parent))
        return Finding(room=module.room, path=path, line=line, what=what)

    @cached_property
    def functions(self) -> list[Function]:
        return [f for module in self.modules.values() for f in module.functions]

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """The modules of the package that each module names in its imports."""
        return {
            name: set(self._imported(module)) - {name}
            for name, module in self.modules.items()
        }

    def _imported(self, module: Module) -> Iterator[str]:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                yield from (a.name for a in node.names if a.name in self.modules)
            elif isinstance(node, ast.ImportFrom) and node.module in self.modules:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield whole if whole in self.modules else node.module

    @cached_property
    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other, directly or through others."""
        return [group for group in components(self.imports) if len(group) > 1]

    @cached_property
    def one_importer(self) -> list[Finding]:
        """Modules (packages not counted) that exactly one other module imports."""
        importers = defaultdict(list)
        for name, targets in self.imports.items():
            for target in targets:
                importers[target].append(name)
        return sorted(
            self.finding(module, 1, f"only {importers[name][0]}")
            for name, module in self.modules.items()
            if not module.is_package and len(importers[name]) == 1
        )

    @cached_property
    def one_caller(self) -> list[Finding]:
        """Functions and methods named `_x` that one place in their module uses.

        A place is a use of the name, called or handed on; uses within the function
        itself are not counted.
        """
        found = []
        for module in self.modules.values():
            uses = _uses(module.tree)
            for function in _outer_functions(module.tree):
                name = function.name
                if not name.startswith("_") or name.startswith("__"):
                    continue
                users = [user for user in uses[name] if user != name]
                if len(users) == 1:
                    what = f"{name} <- {users[0] or 'the module'}"
                    found.append(self.finding(module, function.lineno, what))
        return sorted(found)

    @cached_property
    def untyped(self) -> list[Finding]:
        """Places that say `dict[str, Any]`, or another mapping to `Any`."""
        return sorted(
            self.finding(module, node.lineno, ast.unparse(node))
            for module in self.modules.values()
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Subscript) and _is_untyped(node)
        )

    @cached_property
    def bare_any(self) -> int:
        """How often `Any` stands anywhere but in an import."""
        return sum(
            isinstance(node, ast.Name) and node.id == "Any"
            for module in self.modules.values()
            for node in ast.walk(module.tree)
        )

    @cached_property
    def longest_chain(self) -> list[str]:
        """The longest row of functions of which each calls the next, read statically.

        The figure is the number of calls. Followed are calls of a name that the module
        defines or imports, of a class (its `__init__`), of a module's function, and of
        `self.method`. Functions that call each other in a circle count as one.
        """
        return longest_path(Calls(self.modules).graph())

    @cached_property
    def settings(self) -> int | None:
        """Leaf fields below the class `Settings` of `config/settings.py`, if any."""
        classes: dict[str, ast.ClassDef] = {}
        for module in self.modules.values():
            if module.room == "config":
                for node in module.tree.body:
                    if isinstance(node, ast.ClassDef):
                        classes[node.name] = node
        return _leaves("Settings", classes) if "Settings" in classes else None

    def words(self, room: str = "") -> int:
        return sum(
            len(WORDS.findall(module.text))
            for module in self.modules.values()
            if room in ("", module.room)
        )


def _outer_functions(node: ast.Module | ast.ClassDef) -> Iterator[Function]:
    """Functions of a module and methods of its classes, none within functions."""
    for inner in node.body:
        if isinstance(inner, FUNCTIONS):
            yield inner
        elif isinstance(inner, ast.ClassDef):
            yield from _outer_functions(inner)


def _uses(tree: ast.Module) -> dict[str, list[str]]:
    """Where each name is used: the outermost function around, or nothing."""
    uses: dict[str, list[str]] = defaultdict(list)

    def visit(node: ast.AST, user: str) -> None:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.Name):
                uses[inner.id].append(user)
            elif isinstance(inner, ast.Attribute):
                uses[inner.attr].append(user)
            within = inner.name if isinstance(inner, FUNCTIONS) and not user else user
            visit(inner, within)

    visit(tree, "")
    return uses


def _is_untyped(node: ast.Subscript) -> bool:
    base = ast.unparse(node.value).rpartition(".")[2]
    inside = ast.unparse(node.slice).strip("()").split(", ")
    return base in MAPPINGS and inside[-1] == "Any"


def _leaves(name: str, classes: dict[str, ast.ClassDef]) -> int:
    """How many fields a settings class has, those of its sections included."""
    return sum(
        _leaves(kind, classes) if kind in classes and kind.endswith("Settings") else 1
        for kind in _fields(name, classes).values()
    )


def _fields(name: str, classes: dict[str, ast.ClassDef]) -> dict[str, str]:
    """The annotations of a class's fields, inherited ones included."""
    fields: dict[str, str] = {}
    for base in classes[name].bases:
        if isinstance(base, ast.Name) and base.id in classes:
            fields |= _fields(base.id, classes)
    for node in classes[name].body:
        if isinstance(node, ast.AnnAssign):
            fields[ast.unparse(node.target)] = ast.unparse(node.annotation)
    return fields


def table(house: House) -> list[tuple[str, str]]:
    """The figures of the whole package, each with its name."""
    modules = house.modules.values()
    lines = sum(module.lines for module in modules)
    comments = sum(module.comments for module in modules)
    lengths = sorted((f.end_lineno or 0) - f.lineno + 1 for f in house.functions)
    p90 = lengths[int(len(lengths) * 0.9)] if lengths else 0
    median = round(statistics.median(lengths)) if lengths else 0
    rooms: Counter[str] = Counter()
    for module in modules:
        rooms[module.room] += module.lines
    room, biggest = rooms.most_common(1)[0]
    few, functions = len(house.one_caller), len(house.functions)
    return [
        ("files / lines", f"{len(modules):,} / {lines:,}"),
        ("function median / p90 / max", f"{median} / {p90} / {lengths[-1]}"),
        ("import circles", f"{len(house.circles)}"),
        ("biggest room", f"{room} {100 * biggest / lines:.0f} %"),
        ("comments per 100 lines", f"{100 * comments / lines:.2f}"),
        (
            "private helpers with one caller",
            f"{few:,} of {functions:,} functions (1 in {functions / max(few, 1):.1f})",
        ),
        ("modules with one importer", f"{len(house.one_importer)}"),
        ("dict[str, Any] and the like", f"{len(house.untyped)}"),
        ("Any, all uses", f"{house.bare_any:,}"),
        ("longest static call chain", f"{len(house.longest_chain) - 1}"),
        ("settings", "-" if house.settings is None else f"{house.settings}"),
        ("words that house.WORDS names", f"{house.words():,}"),
    ]


def room_lines(house: House) -> Iterator[str]:
    """A line a room, the biggest first."""
    modules = list(house.modules.values())
    total = sum(module.lines for module in modules)
    size: Counter[str] = Counter()
    for module in modules:
        size[module.room] += module.lines
    kinds = ("one_caller", "one_importer", "untyped")
    counts = {k: Counter(f.room for f in getattr(house, k)) for k in kinds}
    heads = ["files", "lines", "%", "1-caller", "functions", "1-importer", "any"]
    heads += ["comments", "words"]
    yield f"{'room':14}" + "".join(f"{head:>11}" for head in heads)
    for room, lines in size.most_common():
        own = [module for module in modules if module.room == room]
        cells = [
            f"{len(own):,}",
            f"{lines:,}",
            f"{100 * lines / total:.1f}",
            f"{counts['one_caller'][room]}",
            f"{sum(len(module.functions) for module in own):,}",
            f"{counts['one_importer'][room]}",
            f"{counts['untyped'][room]}",
            f"{100 * sum(module.comments for module in own) / max(lines, 1):.2f}",
            f"{house.words(room)}",
        ]
        yield f"{room:14}" + "".join(f"{cell:>11}" for cell in cells)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks house", description=__doc__
    )
    parser.add_argument("--path", type=Path, default=PACKAGE, help="another package")
    parser.add_argument("--by-room", action="store_true", help="a line a room")
    lists = ("one-caller", "one-importer", "any", "chain", "circles")
    parser.add_argument("--list", choices=lists, help="name the findings")
    given = parser.parse_args(arguments)
    house = House(given.path)
    if given.list == "chain":
        print("\n".join(house.longest_chain))
    elif given.list == "circles":
        print("\n".join(" <-> ".join(circle) for circle in house.circles))
    elif given.list:
        kind = {"any": "untyped"}.get(given.list, given.list.replace("-", "_"))
        for found in getattr(house, kind):
            print(f"{found.path}:{found.line}: {found.what}")
    elif given.by_room:
        print("\n".join(room_lines(house)))
    else:
        for name, figure in table(house):
            print(f"{name:40} {figure}")
    return 0
