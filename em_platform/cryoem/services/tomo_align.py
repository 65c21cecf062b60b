"""A tilt series aligned and reconstructed, and word of it to all who wait for it.

Messages and files are those of cryoem-services' AreTomoAlign, whatever the engines.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from em_platform.cryoem.halves import half_paths, have_halves
from em_platform.cryoem.optics import Optics
from em_platform.cryoem.services.stage_run import JobPath, job_path, link, run_stage
from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.cryoem.stage import RelionOptions, StageParameters
from em_platform.cryoem.stages import reconstruct, tilt_align, wants_halves
from em_platform.cryoem.tilt_name import series_of, tilt_name
from em_platform.errors import MessageRejected, PlatformError
from em_platform.model import JsonObject

_A_PER_NM = 10.0
_MOST_LETTERS = 255  # of the column of the status


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tomogram:
    """What was made of one series, and where."""

    parameters: tilt_align.Parameters
    out: JobPath
    aligned: tilt_align.Result
    result: reconstruct.Result
    aln: Path
    tilts: tuple[tuple[Path, Any], ...]
    """Image and alignment of the tilts whose micrographs the project has."""

    @property
    def stack(self) -> Path:
        return self.parameters.stack_file

    @property
    def volume(self) -> Path:
        return self.stack.parent / self.result.tomogram

    @property
    def pixel_a(self) -> float:
        return self.parameters.pixel_size or self.result.pixel_size_a

    def options(self) -> RelionOptions:
        """The blob that steps hand on, with what this one knows."""
        given = self.parameters
        scale = round(self.result.pixel_size_a / self.pixel_a)
        known = {
            "pixel_size": self.pixel_a,
            "pixel_size_downscaled": self.result.pixel_size_a,
            "voltage": given.kv,
            "dose_per_frame": given.dose_per_frame,
            "frame_count": given.frame_count,
            "tilt_axis_angle": given.tilt_axis,
            "tomo_size_x": self.result.size_x * scale,
            "tomo_size_y": self.result.size_y * scale,
            "vol_z": self.result.size_z * scale,
            "manual_tilt_offset": given.manual_tilt_offset,
        }
        there = {name: value for name, value in known.items() if value is not None}
        return {**given.relion_options, **there}


class Parameters(StageParameters):
    """What of the message the service itself needs; ours alone."""

    denoise_method: Literal["tv", "gaussian", "n2n"] | None = None
    """That of the step that takes the tomogram; n2n needs its halves, too."""


def handle(step: Step, place: ServiceContext) -> None:
    """Make the tomogram of the tilt series of a message."""
    own = step.validated(Parameters)
    parameters = step.validated(
        tilt_align.Parameters, **place.parameters_of("tilt-align")
    )
    optics = step.validated(Optics, **place.parameters_of("tilt-align"))
    options = parameters.relion_options | optics.optics
    parameters = parameters.model_copy(update={"relion_options": options})
    try:
        made = _made(step, place, parameters, method=own.denoise_method)
    except PlatformError as error:
        message = {"status_message": str(error)[:_MOST_LETTERS]}
        step.send_on_failure("failure", message)
        raise
    _send_to_project(step, made)
    _send_images(step, made)
    step.send("ispyb_connector", _record(made))
    # Its folder has the name that it has in the project of upstream's services, too.
    denoised = made.out.other("Denoise", made.out.number + 1).parent
    halves = {"even": made.result.even, "odd": made.result.odd}
    method = {"method": own.denoise_method} if own.denoise_method else {}
    step.send(
        "denoise",
        {
            "volume": str(made.volume),
            "output_dir": str(denoised),
            "relion_options": made.options(),
            # Upstream's service passes over what follows.
            **method,
            **{k: str(made.volume.with_name(v)) for k, v in halves.items() if v},
        },
    )
    step.send("success", {})


def _made(
    step: Step,
    place: ServiceContext,
    parameters: tilt_align.Parameters,
    *,
    method: str | None,
) -> _Tomogram:
    stack = parameters.stack_file
    out = job_path(stack)
    # Of its own: `tilt.com` has the same name for each series.
    folder = out.checked(stack.parent / f"{stack.stem}_alignment")
    images = _listed_images(parameters)
    sources = images or [stack]
    # Without them there is still a tomogram; denoising says what it lacks.
    halves = wants_halves(place.stages, method=method) and have_halves(sources)
    parameters = parameters.model_copy(update={"halves": halves})
    if images and stack.is_file() and not stack.is_symlink():
        link(stack, folder)  # refuses it, before anything is computed
    aligned, _reused = run_stage(
        "tilt-align",
        parameters,
        folder=folder,
        stem=stack.stem,
        takes=max(sources, key=_changed),  # the newest
        made=place.made,
    )
    _link_stacks(stack, folder, aligned)
    pixel = parameters.pixel_size or aligned.pixel_size_a
    if pixel is None:
        raise MessageRejected(
            "message: pixel_size is missing, Å per pixel was expected; send it with "
            "the message or write it into the recipe's step"
        )
    aln = folder / aligned.aln
    volume = step.validated(
        reconstruct.Parameters, **place.parameters_of("reconstruct")
    )
    result, _reused = run_stage(
        "reconstruct",
        volume.model_copy(
            update={"alignment": aln, "pixel_size": pixel, "halves": halves}
        ),
        folder=stack.parent,
        stem=stack.stem,
        takes=aln,
        made=place.made,
    )
    tilts = tuple(
        (images[tilt.section], tilt)
        for tilt in aligned.tilts
        if images and images[tilt.section].is_relative_to(out.project)
    )
    return _Tomogram(
        parameters=parameters.model_copy(update={"pixel_size": pixel}),
        out=out,
        aligned=aligned,
        result=result,
        aln=aln,
        tilts=tilts,
    )


def _link_stacks(stack: Path, folder: Path, aligned: tilt_align.Result) -> None:
    """Let the stack and its halves stand where the message wants the stack."""
    beside = half_paths(stack)
    names = {stack: aligned.stack}
    names |= {beside[half]: getattr(aligned, half) or "" for half in beside}
    for path, name in names.items():
        target = folder / name
        if not name or target == path:
            continue
        inside = target.is_relative_to(stack.parent)
        # A project may be moved: within it a link says no more than it has to.
        link(path, target.relative_to(stack.parent) if inside else target)


def _listed_images(parameters: tilt_align.Parameters) -> list[Path]:
    """The files of the sections; none where the series is a stack already."""
    if parameters.input_file_list is None and parameters.path_pattern is None:
        return []
    return [each.file for each in tilt_align.series_of(parameters).images]


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _send_to_project(step: Step, made: _Tomogram) -> None:
    """Report two jobs for each tilt, and that of the tomogram."""
    out, options = made.out, made.options()
    common = {"experiment_type": "tomography", "relion_options": options}
    series = _series(made)
    for image, tilt in made.tilts:
        # What the project has to know of a tilt whose name says neither.
        named = {"tilt_series": series, "tilt_angle": tilt.angle_deg}
        jobs = {
            "relion.excludetilts": ("ExcludeTiltImages", out.number - 2, {}),
            "relion.aligntiltseries.aretomo": (
                "AlignTiltSeries",
                out.number - 1,
                {
                    "TomoXTilt": 0.0,
                    "TomoYTilt": tilt.angle_deg,
                    "TomoZRot": tilt.rotation_deg,
                    "TomoXShiftAngst": tilt.dx_px * made.pixel_a,
                    "TomoYShiftAngst": tilt.dy_px * made.pixel_a,
                },
            ),
        }
        for job_type, (folder, number, results) in jobs.items():
            output = out.project / folder / f"job{number:03}" / "tilts" / image.name
            step.send(
                "node_creator",
                {
                    **common,
                    "relion_options": options if tilt_name(image) else options | named,
                    "job_type": job_type,
                    "input_file": str(image),
                    "output_file": str(output),
                    "results": results,
                    "command": f"em-platform cryoem tilt-align {made.stack}",
                },
            )
    aligned = out.project / "AlignTiltSeries" / f"job{out.number - 1:03}"
    step.send(
        "node_creator",
        {
            **common,
            "job_type": "relion.reconstructtomograms",
            "input_file": str(aligned / "aligned_tilt_series.star"),
            "output_file": str(made.volume),
            "results": {"tilt_series": series},
            "command": f"em-platform cryoem reconstruct {made.stack}",
        },
    )


def _series(made: _Tomogram) -> str:
    """Its name as its tilts have it, under which their tables lie."""
    if known := made.parameters.relion_options.get("tilt_series"):
        return str(known)
    named = [image for image, _ in made.tilts if tilt_name(image)]
    return series_of(named[0] if named else made.stack)


def _send_images(step: Step, made: _Tomogram) -> None:
    alignment = {"file": str(made.stack), "aln_file": str(made.aln)}
    step.send("images", {"image_command": "tilt_series_alignment", **alignment})
    for each in (made.stack, made.volume):
        for command in ("mrc_central_slice", "mrc_to_apng"):
            step.send("images", {"image_command": command, "file": str(each)})
    for projection in ("XY", "XZ"):
        step.send(
            "images",
            {
                "image_command": "mrc_projection",
                "file": str(made.volume),
                "projection": projection,
                "pixel_spacing": made.result.pixel_size_a,
            },
        )


def _record(made: _Tomogram) -> JsonObject:
    aligned, result, name = made.aligned, made.result, made.volume.stem
    thickness = aligned.thickness_px
    folder = made.stack.parent
    tomogram: JsonObject = {
        "ispyb_command": "insert_tomogram",
        "volume_file": made.volume.name,
        "stack_file": str(made.stack),
        "size_x": result.size_x,
        "size_y": result.size_y,
        "size_z": result.size_z,
        "pixel_spacing": result.pixel_size_a,
        "tilt_angle_offset": aligned.tilt_offset_deg,
        "z_shift": 0,  # the specimen's middle is that of the volume
        "file_directory": str(folder),
        "central_slice_image": f"{name}_thumbnail.jpeg",
        "tomogram_movie": f"{name}_movie.png",
        "xy_shift_plot": str((made.aln.parent / aligned.plot).relative_to(folder)),
        "proj_xy": f"{name}_projXY.jpeg",
        "proj_xz": f"{name}_projXZ.jpeg",
        "alignment_quality": aligned.alignment_quality,
        "thickness": None
        if thickness is None
        else round(thickness * made.pixel_a / _A_PER_NM, 2),
    }
    tilts: list[JsonObject] = [
        {
            "ispyb_command": "insert_tilt_image_alignment",
            "path": str(image),
            "refined_magnification": 1,
            "refined_tilt_angle": tilt.angle_deg,
            "refined_tilt_axis": tilt.rotation_deg,
            "residual_error": tilt.residual_px,
        }
        for image, tilt in made.tilts
    ]
    processed = [
        {
            "ispyb_command": "insert_processed_tomogram",
            "file_path": str(path),
            "processing_type": kind,
        }
        for kind, path in (("Stack", made.stack), ("Alignment", made.aln))
    ]
    return {
        "ispyb_command": "multipart_message",
        "ispyb_command_list": [tomogram, *tilts, *processed],
    }
