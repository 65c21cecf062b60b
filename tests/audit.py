"""`make check` asks whether a pinned package has a known weakness, where it can.

python tests/audit.py: status 1 where there is one, 0 where there is none or nothing
can be asked; the reason is printed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PINNED = Path(__file__).parent.parent / "constraints.txt"
# Known weaknesses that do not concern us: their ids, each with the reason.
ACCEPTED: dict[str, str] = {}
_TIMEOUT_S = 300.0  # 250 packages, one question each


def ask(requirements: Path) -> dict[str, Any] | str:
    """What is known of these packages; a text says why nothing is."""
    command = (
        *(sys.executable, "-m", "pip_audit", "--requirement", str(requirements)),
        *("--no-deps", "--disable-pip", "--format", "json", "--timeout", "10"),
        *("--progress-spinner", "off"),
    )
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        found: dict[str, Any] = json.loads(ended.stdout)
    except subprocess.TimeoutExpired:
        return f"no whole answer within {_TIMEOUT_S:g} s"
    except json.JSONDecodeError:
        return (ended.stderr.strip().splitlines() or ["pip-audit gave no answer"])[-1]
    return found


def judge(found: dict[str, Any]) -> list[str]:
    """A sentence for each weakness that is not accepted."""
    return [
        f"audit: {package['name']} {package['version']} has {weakness['id']}; raise it "
        f"in constraints.txt to {' or '.join(weakness['fix_versions']) or 'another'}, "
        "or accept it with its reason in tests/audit.py"
        for package in found["dependencies"]
        for weakness in package.get("vulns", ())
        if not {weakness["id"], *weakness.get("aliases", ())} & ACCEPTED.keys()
    ]


def main(pinned: Path = PINNED) -> int:
    """Ask for one package, which shows whether it can be asked, then for all."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as first:
        first.write(pinned.read_text(encoding="utf-8").splitlines()[0] + "\n")
        first.flush()
        found = ask(Path(first.name))
    if isinstance(found, dict) and not judge(found):
        [package] = found["dependencies"]
        found = package.get("skip_reason") or ask(pinned)
    if isinstance(found, str):
        sys.stdout.write(f"audit: skipped, nothing can be asked here ({found})\n")
        return 0
    sentences = judge(found)
    known = f"audit: {len(found['dependencies'])} packages, no known weakness"
    sys.stdout.write("\n".join(sentences or [known]) + "\n")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())
