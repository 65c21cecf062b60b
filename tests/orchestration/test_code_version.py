import ast
from pathlib import Path

import dagster as dg

from em_platform.assets.code_version import KERNELS, code_of, code_version
from em_platform.definitions import defs


def test_comments_and_docstrings_are_no_new_version() -> None:
    plain = "def f(x):\n    return x + 1\n"
    explained = '"""A module."""\n\n\ndef f(x):  # why\n    return (x + 1)\n'
    assert code_of(explained).replace("Expr(value=Constant(value='')), ", "") == (
        code_of(plain)
    )
    assert code_of(plain) != code_of(plain.replace("1", "2"))


def test_each_step_of_a_montage_has_the_version_of_its_kernels() -> None:
    versions = defs.resolve_asset_graph()
    for asset in KERNELS:
        assert versions.get(dg.AssetKey(asset)).code_version == code_version(asset)
    # Two assets whose kernels differ have different ones.
    assert len({code_version(asset) for asset in KERNELS}) == len(KERNELS)


def test_each_asset_names_the_file_that_makes_it() -> None:
    graph = defs.resolve_asset_graph()
    for node in graph.materializable_asset_keys:
        found = graph.get(node).metadata["dagster/code_references"]
        paths = {reference.file_path for reference in found.code_references}
        assert any("em_platform/assets/" in path for path in paths), node


# Dagster's private names that we use -> why, and which test notices their end.
PRIVATE = {
    "assets/metadata.py": "an annotation; mypy notices",
    "jobs.py": "an annotation; mypy notices",
    "reference.py": "an annotation; mypy notices",
    "resources/code_server.py": "decision 36; test_code_server.py, test_platform.py",
    "resources/run_launcher.py": "decision 8; orchestration/test_run_launcher.py",
    "resources/run_coordinator.py": "decision 29; test_run_coordinator.py",
    "resources/check_states.py": "decision 31; orchestration/test_run_logs.py",
    "resources/run_logs.py": "decision 31; orchestration/test_run_logs.py",
    "sensors/history.py": "the state of a look; orchestration/test_run_logs.py",
}


def test_private_names_of_dagster_have_a_reason_each(repository: Path) -> None:
    package = repository / "em_platform"
    used = {
        str(path.relative_to(package)): names
        for path in sorted(package.rglob("*.py"))
        if (names := private_names(path))
    }
    assert set(used) <= set(PRIVATE), "say why in PRIVATE, and which test notices"
    public = {name for names in used.values() for name in names if hasattr(dg, name)}
    assert public == set(), "these are public now: import them from dagster"


def private_names(path: Path) -> set[str]:
    return {
        alias.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("dagster")
        and "._" in (node.module or "")
        for alias in node.names
    }
