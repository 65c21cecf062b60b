"""The named parts of the page, each with the version at which it changed last."""

from typing import Any


class Parts:
    """Values by name; `version` grows with every change of any of them."""

    def __init__(self) -> None:
        self.version = 0
        self._values: dict[str, Any] = {}
        self._changed: dict[str, int] = {}

    def bump(self) -> int:
        """A new version, for something that changed beside the parts."""
        self.version += 1
        return self.version

    def put(self, name: str, value: Any) -> None:
        """Set one part; the same value again is no change."""
        if name in self._values and self._values[name] == value:
            return
        self._values[name] = value
        self._changed[name] = self.bump()

    def get(self, name: str) -> Any:
        """The present value, None where there was none."""
        return self._values.get(name)

    def since(self, version: int) -> dict[str, Any]:
        """The parts that have changed after `version`."""
        return {n: self._values[n] for n, v in self._changed.items() if v > version}
