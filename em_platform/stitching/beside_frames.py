"""What lies beside the frames of a montage and is none of them, by name."""

REFERENCES = ("bright", "dark")
"""Names, without suffix, of the images of even light and of none."""

RECIPE = ".recipe.json"
"""Ends the name of how an acquisition's frames become tiles: `<acquisition>` + this."""

PROCESSED = ".processed.tiff"
"""Ends the name of the tile that was made of a frame."""


def processed_path(frame: str) -> str:
    """Of the tile that is made of a frame."""
    folder, slash, name = frame.rpartition("/")
    stem = name.rpartition(".")[0] or name
    return f"{folder}{slash}{stem}{PROCESSED}"
