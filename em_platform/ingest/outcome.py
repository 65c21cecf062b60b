"""What the process of a source says of its items.

Apart from the work itself, so that who only listens does not load its libraries.
"""

from collections.abc import Callable

from em_platform.model import Model


class ItemOutcome(Model):
    """What became of one item."""

    source: str
    key: str
    status: str
    """`complete`, `failed` or `cancelled`."""
    sentence: str = ""
    title: str = ""
    shape: tuple[int, int, int] | None = None
    dtype: str = ""
    voxel_size_nm: tuple[float, float, float] | None = None
    fetched_bytes: int = 0
    volume_bytes: int = 0
    was_there: bool = False
    """Whether the volume stood before, so that nothing was read."""
    seconds: float = 0.0
    failed_checks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it is complete and no check of severity ERROR failed."""
        return self.status == "complete" and not self.failed_checks


class Told(Model):
    """One line that the process of a source says."""

    source: str
    key: str = ""
    step: str = ""
    total_bytes: int = 0
    came_bytes: int = 0
    outcome: ItemOutcome | None = None


Tell = Callable[[Told], None]
