"""What lies beside the frames of a montage and is none of them, by name."""

REFERENCES = ("bright", "dark")
"""Names, without suffix, of the images of even light and of none."""

RECIPE = ".recipe.json"
"""Ends the name of how an acquisition's frames become tiles: `<acquisition>` + this."""

TRUTH = ".truth.json"
"""Ends the name of what a simulated microscope knows of an acquisition."""

PROCESSED = ".processed.tiff"
"""Ends the name of the tile that was made of a frame."""

_STATISTICS, _MATCHES = ".processed.sealed", ".matches.sealed"  # no .json: those are
# bodies of messages, and are looked for by that ending


def processed_path(frame: str) -> str:
    """Of the tile that is made of a frame."""
    return _beside(frame, PROCESSED)


def statistics_path(frame: str) -> str:
    """Of the proof of that tile: its recipe, checksum and statistics."""
    return _beside(frame, _STATISTICS)


def matches_path(frame: str) -> str:
    """Of its matches with the neighbours that were imaged before it."""
    return _beside(frame, _MATCHES)


def live_paths(frame: str) -> tuple[str, ...]:
    """All that the pipeline makes of a frame; useless without it."""
    return processed_path(frame), statistics_path(frame), matches_path(frame)


def is_processed(name: str) -> bool:
    """Whether a file is a tile that was made of a frame."""
    return name.endswith(PROCESSED)


def frame_stem(name: str) -> str:
    """The name without suffix of the frame, be it of a frame or of its tile."""
    return name.removesuffix(PROCESSED) if is_processed(name) else _stem(name)


def _beside(frame: str, suffix: str) -> str:
    folder, slash, name = frame.rpartition("/")
    return f"{folder}{slash}{_stem(name)}{suffix}"


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
