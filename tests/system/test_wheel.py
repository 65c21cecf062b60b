"""The wheel is enough: installed without the checkout, the program finds its files."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NEEDED = (
    "em_platform/dagster.yaml",
    "em_platform/config/profiles/sim.yaml",
    "em_platform/config/profiles/T1.yaml",
    "em_platform/operator/page/index.html",
)


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--disable-pip-version-check"),
            *("--wheel-dir", str(folder), str(repository)),
        ],
        check=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(
    wheel: Path, repository: Path
) -> None:
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "em_platform"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    held = set(zipfile.ZipFile(wheel).namelist())
    assert not {*NEEDED, *listed.stdout.split()} - held


def test_it_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True
    )
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / name / "site-packages"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--disable-pip-version-check", "--target", str(packages), str(wheel)),
        ],
        check=True,
    )
    # What it depends on comes from here, but for the checkout itself (its .pth file).
    python = environment / "bin/python"
    here = Path(sys.prefix) / "lib" / name / "site-packages"
    code = (
        "import sys; import em_platform; from em_platform.cli import main;"
        "print(em_platform.__file__, file=sys.stderr); main(sys.argv[1:])"
    )
    variables = {k: v for k, v in os.environ.items() if not k.startswith("EM_")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), "-c", code, *arguments],
            cwd=tmp_path,
            env={**variables, "PYTHONPATH": f"{packages}{os.pathsep}{here}"},
            capture_output=True,
            text=True,
            check=False,
        )

    for arguments in (["--help"], ["--profile", "sim", "config"], ["stitch", "--help"]):
        result = run(*arguments)
        assert result.returncode == 0, result.stderr
        assert result.stderr.startswith(str(packages))
    assert "storage.root" in run("config").stdout
