"""What scanning electron microscopes write into TIFFs: pixel size and settings."""

from dataclasses import dataclass, field

from em_platform.formats.tiff_directory import Directory
from em_platform.model.volume import Tag


@dataclass(frozen=True, slots=True, kw_only=True)
class SemScale:
    """What the microscope says of an image."""

    dialect: str
    voxel_size_nm: tuple[float, float, float] | None = None
    tags: dict[str, Tag] = field(default_factory=dict)


def sem_scale(directory: Directory) -> SemScale | None:
    """What a SEM says of the first page; None where none wrote this file."""
    return None
