"""Who hears how far a transfer is."""

from typing import Protocol


class Progress(Protocol):
    """Told from any thread."""

    def total(self, size_bytes: int) -> None:
        """So many bytes will come in all."""
        ...

    def came(self, size_bytes: int) -> None:
        """So many more have come."""
        ...


class Silent:
    """Nobody listens."""

    def total(self, size_bytes: int) -> None:
        """Forget it."""

    def came(self, size_bytes: int) -> None:
        """Forget it."""
