"""The noise of a tomogram taken out by Topaz."""

from pathlib import Path

from em_platform.cryoem.movies import open_movie
from em_platform.cryoem.programs.arguments import Parameters
from em_platform.cryoem.programs.others import topaz_denoise_command
from em_platform.cryoem.programs.run import run_program, scratch
from em_platform.errors import ToolFailed


def run(
    parameters: Parameters, folder: Path, *, target: str, shape: tuple[int, int, int]
) -> dict[str, str]:
    """Write `target`; what the program is."""
    volume = parameters.volume.absolute()
    with scratch(folder) as inside:
        # Topaz puts its suffix between the name of the volume and its ending.
        made = inside / f"{volume.stem}{parameters.suffix}{volume.suffix}"
        fields = parameters.model_dump() | {"volume": volume, "output_dir": inside}
        ran = run_program(
            topaz_denoise_command(fields),
            log=folder / f"{Path(target).stem}.log",
            makes=[made],
            time_limit_s=parameters.time_limit_s,
        )
        found = open_movie(made).shape
        if found != shape:
            raise ToolFailed(
                f"topaz: it wrote a volume of {found} voxels, {shape} were expected; "
                "run it by hand"
            )
        made.replace(folder / target)
    return {"program": ran.program}
