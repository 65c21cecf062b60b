"""Python source as modules, and which function calls which as far as names say it."""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class Module:
    """One file of the package, parsed."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def room(self) -> str:
        """The folder below the package; files beside the folders are one room."""
        parts = self.name.split(".")
        return (
            parts[1] if len(parts) > 2 or (self.is_package and parts[1:]) else "(top)"
        )

    @cached_property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def functions(self) -> list[Function]:
        """All functions, methods and functions within functions."""
        return [node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS)]

    @cached_property
    def comments(self) -> int:
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return sum(token.type == tokenize.COMMENT for token in tokens)


def read_modules(folder: Path) -> Iterator[Module]:
    """Every Python file below a package's folder, by its dotted name."""
    for path in sorted(folder.rglob("*.py")):
        parts = (folder.name, *path.relative_to(folder).with_suffix("").parts)
        name = ".".join(part for part in parts if part != "__init__")
        text = path.read_text()
        yield Module(name=name, path=path, text=text, tree=ast.parse(text))


class Calls:
    """Which function of some modules calls which, as far as names say it."""

    def __init__(self, modules: dict[str, Module]) -> None:
        self.modules = modules
        self.functions: dict[str, Function] = {}
        self.bases: dict[str, list[str]] = {}
        self.scopes = {name: self._scope(m) for name, m in modules.items()}

    def graph(self) -> dict[str, set[str]]:
        called: dict[str, set[str]] = {}
        for name, function in self.functions.items():
            owner = name.rpartition(".")[0]
            module = self._module_of(name)
            targets = set()
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    targets.add(self._target(node.func, module, owner))
            called[name] = {t for t in targets if t is not None and t != name}
        return called

    def _module_of(self, name: str) -> str:
        while name not in self.modules:
            name = name.rpartition(".")[0]
        return name

    def _scope(self, module: Module) -> dict[str, str]:
        """What each name at the top of a module stands for, by its whole name."""
        scope: dict[str, str] = {}
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module in self.modules:
                for alias in node.names:
                    scope[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.asname and alias.name in self.modules:
                        scope[alias.asname] = alias.name
        for node in module.tree.body:
            if isinstance(node, FUNCTIONS):
                scope[node.name] = f"{module.name}.{node.name}"
                self.functions[scope[node.name]] = node
            elif isinstance(node, ast.ClassDef):
                whole = scope[node.name] = f"{module.name}.{node.name}"
                self.bases[whole] = [ast.unparse(base) for base in node.bases]
                for inner in node.body:
                    if isinstance(inner, FUNCTIONS):
                        self.functions[f"{whole}.{inner.name}"] = inner
        return scope

    def _target(self, called: ast.expr, module: str, owner: str) -> str | None:
        if isinstance(called, ast.Name):
            return self._resolve(self.scopes[module].get(called.id))
        if not isinstance(called, ast.Attribute):
            return None
        if not isinstance(called.value, ast.Name):
            return None
        if called.value.id in ("self", "cls") and owner in self.bases:
            return self._method(owner, called.attr)
        base = self.scopes[module].get(called.value.id)
        return self._resolve(f"{base}.{called.attr}") if base else None

    def _resolve(self, name: str | None, depth: int = 0) -> str | None:
        """The function behind a whole name, through the faces of packages."""
        if name is None or depth > 9:  # nine faces behind each other: a circle
            return None
        if name in self.functions:
            return name
        if name in self.bases:
            return self._method(name, "__init__")
        owner, _, last = name.rpartition(".")
        if owner in self.bases:
            return self._method(owner, last)
        if owner in self.modules:
            return self._resolve(self.scopes[owner].get(last), depth + 1)
        return None

    def _method(self, owner: str, name: str) -> str | None:
        whole = f"{owner}.{name}"
        if whole in self.functions:
            return whole
        scope = self.scopes[self._module_of(owner)]
        for base in self.bases[owner]:
            parent = scope.get(base)
            if parent in self.bases and parent != owner:
                found = self._method(parent, name)
                if found:
                    return found
        return None


def components(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other, what they lead to first (Tarjan)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in number:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == number[node]:
            at = stack.index(node)
            groups.append(stack[at:])
            del stack[at:]

    for node in graph:
        if node not in number:
            visit(node)
    return groups


def longest_path(graph: dict[str, set[str]]) -> list[str]:
    """The longest row of nodes along the arrows; a circle counts as one node."""
    group_of: dict[str, int] = {}
    best: dict[int, list[str]] = {}
    for number, group in enumerate(components(graph)):
        group_of.update(dict.fromkeys(group, number))
        after = {group_of[t] for node in group for t in graph.get(node, ())} - {number}
        tail = max((best[other] for other in after), key=len, default=[])
        best[number] = [group[0], *tail]
    return max(best.values(), key=len, default=[])
