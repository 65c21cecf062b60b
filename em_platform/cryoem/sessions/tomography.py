"""What is made of a tilt series, from its corrected movies to pictures of tomograms."""

from pathlib import Path

from em_platform.config.cryoem import SessionSettings
from em_platform.cryoem.halves import have_halves
from em_platform.cryoem.sessions.processing import Sessions, StageOutput, missing, run
from em_platform.cryoem.sessions.run_stage import result_of
from em_platform.cryoem.stage import RawParameters
from em_platform.cryoem.stages import wants_halves
from em_platform.errors import DataError


def expected_tilts(sessions: Sessions, key: str) -> int | None:
    """How many tilts the series' mdoc has; None where it has no mdoc."""
    session, series = sessions.ledger.tilt_series(key)
    return sessions.ledger.expected_tilts(session, series)


def assemble(sessions: Sessions, key: str) -> StageOutput:
    """The corrected images of a series in one stack, and those of their halves."""
    session, series = sessions.ledger.tilt_series(key)
    movies = sessions.ledger.movies(session, series)
    there = [(movie, sessions.micrograph(movie.key)) for movie in movies]
    kept = [(movie, made) for movie, made in there if made is not None]
    if not kept:
        raise DataError(
            f"tilt series {key}: found no corrected movie of {len(movies)}, all of "
            "them were expected; run the job process_movies for its movies"
        )
    own = _own(sessions, key)
    images = tuple(made.folder / made.result.micrograph for _, made in kept)
    given = {
        "images": images,
        # Without them there is still a tomogram; denoising says what it lacks.
        "halves": wants_halves(own.stages) and have_halves(images),
        "angles_deg": tuple(movie.angle_deg for movie, _ in kept),
        "series": series,
        "pixel_size": kept[0][1].result.pixel_size_a,
        "tilt_axis": sessions.axis_deg(session, series),
    }
    return run("assemble", given, sessions.step_folder(key, "stack"), own)


def align(sessions: Sessions, key: str) -> StageOutput:
    """Where each tilt lies, and the tilt axis."""
    stack = _found(sessions, key, "assemble", "stack", "tilt_series")
    given = {
        "stack_file": stack.folder / stack.result.stack,
        "tilts": stack.folder / stack.result.tilts,
        "pixel_size": stack.result.pixel_size_a,
        "tilt_axis": stack.result.axis_deg,
        # Where nobody says where the axis is, it is looked for all round.
        "axis_search": None if stack.result.axis_deg is not None else 90.0,
    }
    folder = sessions.step_folder(key, "alignment")
    return run("tilt-align", given, folder, _own(sessions, key))


def reconstruct(sessions: Sessions, key: str) -> StageOutput:
    """The tomogram of an aligned series."""
    stack = _found(sessions, key, "assemble", "stack", "tilt_series")
    aligned = _found(sessions, key, "tilt-align", "alignment", "alignments")
    own = _own(sessions, key)
    pixel_a, deep_a = stack.result.pixel_size_a, own.tomogram_thickness_a
    given = {
        "stack_file": stack.folder / stack.result.stack,
        "alignment": aligned.folder / aligned.result.aln,
        "pixel_size": pixel_a,
        "out_bin": own.tomogram_bin,
        "vol_z": None if deep_a is None else round(deep_a / pixel_a),
        "halves": stack.result.even is not None,
    }
    folder = sessions.step_folder(key, "tomogram")
    return run("reconstruct", given, folder, own)


def denoise(sessions: Sessions, key: str) -> StageOutput:
    """The tomogram of a series with less noise."""
    tomogram = _found(sessions, key, "reconstruct", "tomogram", "tomograms")
    found, folder = tomogram.result, tomogram.folder
    given = {
        "volume": folder / found.tomogram,
        "pixel_size": found.pixel_size_a,
        "even": found.even and folder / found.even,
        "odd": found.odd and folder / found.odd,
    }
    folder = sessions.step_folder(key, "denoised")
    return run("denoise", given, folder, _own(sessions, key))


def draw_denoised(sessions: Sessions, key: str) -> Path:
    """The slice in the middle of a denoised tomogram."""
    made = _found(sessions, key, "denoise", "denoised", "denoised")
    given = {
        "image_command": "mrc_central_slice",
        "file": made.folder / made.result.denoised,
    }
    return _drawn(sessions, key, "denoised slice", given)


def draw(sessions: Sessions, key: str) -> dict[str, Path]:
    """Pictures of a tomogram and of its alignment, by what they show."""
    stack = _found(sessions, key, "assemble", "stack", "tilt_series")
    aligned = _found(sessions, key, "tilt-align", "alignment", "alignments")
    tomogram = _found(sessions, key, "reconstruct", "tomogram", "tomograms")
    volume = tomogram.folder / tomogram.result.tomogram
    alignment = {
        "file": stack.folder / stack.result.stack,
        "aln_file": aligned.folder / aligned.result.aln,
    }
    bar = {"file": volume, "pixel_spacing": tomogram.result.pixel_size_a}
    wanted: dict[str, RawParameters] = {
        "central slice": {"image_command": "mrc_central_slice", "file": volume},
        "projection XY": {"image_command": "mrc_projection", **bar},
        "projection XZ": {"image_command": "mrc_projection", "projection": "XZ", **bar},
        "slices": {"image_command": "mrc_to_apng", "file": volume},
        "alignment": {"image_command": "tilt_series_alignment", **alignment},
    }
    found = {
        label: _drawn(sessions, key, label, given) for label, given in wanted.items()
    }
    return found | {"denoised slice": draw_denoised(sessions, key)}


def _drawn(sessions: Sessions, key: str, label: str, given: RawParameters) -> Path:
    folder = sessions.step_folder(key, "pictures") / label.replace(" ", "_")
    made = run("thumbnail", given, folder, _own(sessions, key))
    return folder / str(made.result.files[0])


def _own(sessions: Sessions, key: str) -> SessionSettings:
    return sessions.settings_of(sessions.ledger.tilt_series(key)[0])


def _found(
    sessions: Sessions, key: str, stage: str, step: str, asset: str
) -> StageOutput:
    folder = sessions.step_folder(key, step)
    result = result_of(stage, folder)
    if result is None:
        raise missing(key, asset)
    return StageOutput(result=result, folder=folder)
