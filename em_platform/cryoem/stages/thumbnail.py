"""Pictures of micrographs, volumes, tilt series and picks."""

from pathlib import Path

from em_platform.cryoem.images import COMMANDS, ImageParameters
from em_platform.cryoem.methods.mapped_mrc import mapped
from em_platform.cryoem.stage import StageResult
from em_platform.errors import DataError

Parameters = ImageParameters
_TIFFS = {".tif", ".tiff"}


class Result(StageResult):
    """Which pictures were made."""

    image_command: str
    files: tuple[str, ...]


def run(parameters: ImageParameters, folder: Path) -> Result:
    """Make the pictures of one command of the images service in `folder`.

    Only the slices that are seen are read, through a memory map.

    Raises
    ------
    DataError
        The command is unknown, lacks a parameter, or the image has no contrast or has
        pixels that are not numbers.
    FormatError
        A file cannot be read.
    StorageError
        The pictures could not be written.
    """
    command = parameters.image_command or _usual(parameters)
    if command not in COMMANDS:
        raise DataError(
            f"thumbnail: found the command {command}, one of {', '.join(COMMANDS)} was "
            "expected; name one of them"
        )
    named = parameters.model_copy(update={"image_command": command})
    if named.outfile is None and command == "tiff_to_apng":
        named = named.model_copy(update={"outfile": named.input().with_suffix(".png")})
    return Result(image_command=command, files=COMMANDS[command](named, folder))


def _usual(given: ImageParameters) -> str:
    """What is made of a file where no command is named."""
    path = given.input()
    if path.suffix.lower() in _TIFFS:
        return "tiff_to_apng"
    return "mrc_to_jpeg" if mapped(path)[0].ndim == 2 else "mrc_central_slice"
