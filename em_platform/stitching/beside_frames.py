"""What the online pipeline leaves beside the frames of a montage, by name."""

RECIPE = ".recipe.json"
"""Ends the name of how an acquisition's frames become tiles: `<acquisition>` + this."""

PROCESSED = ".processed.tiff"
"""Ends the name of the tile that was made of a frame."""


def processed_path(frame: str) -> str:
    """Of the tile that is made of a frame."""
    folder, slash, name = frame.rpartition("/")
    stem = name.rpartition(".")[0] or name
    return f"{folder}{slash}{stem}{PROCESSED}"
