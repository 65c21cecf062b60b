"""What the commands of the images service may be given."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator

from em_platform.cryoem.methods.pictures import SUFFIXES
from em_platform.cryoem.stage import Option, StageParameters, Text
from em_platform.errors import DataError

Point = tuple[float, float]


class ImageParameters(StageParameters):
    """The parameters of all commands; each takes those that it knows."""

    image_command: Annotated[
        Text, Option("--command", "which picture; else by the kind of file")
    ] = ""
    file: Annotated[Path | None, Option("INPUT", "image, volume or stack")] = Field(
        None, validation_alias=AliasChoices("file", "input_file", "xrm_file")
    )
    all_frames: Annotated[
        bool, Option("--all-frames", "mrc_to_jpeg: a picture of each slice")
    ] = False
    thumbnail_x: int | None = Field(None, gt=0)
    thumbnail_y: int | None = Field(None, gt=0)
    flip: Annotated[bool, Option("--flip", "mrc_to_jpeg: upside down")] = False
    output_suffix: Literal[".jpeg", ".jpg", ".png"] | None = None
    pixel_spacing: Annotated[
        float | None, Option("--bar-pixel-a", "Å a pixel; draws a scale bar")
    ] = Field(None, gt=0)
    coordinates: tuple[Point, ...] = ()
    selected_coordinates: tuple[Point, ...] = ()
    coordinates_file: Annotated[
        Path | None, Option("--coordinates", "STAR or CBOX of picks")
    ] = None
    pixel_size: Annotated[
        float | None, Option("--pixel-size-a", "Å a pixel; else of the header")
    ] = Field(
        None, gt=0, validation_alias=AliasChoices("pixel_size", "pix_size", "angpix")
    )
    diameter: Annotated[float | None, Option("--diameter-a", "of a particle, Å")] = (
        Field(None, gt=0)
    )
    outfile: Path | None = Field(
        None, validation_alias=AliasChoices("outfile", "output_file")
    )
    contrast_factor: float = 6
    flatten_image: Annotated[
        bool, Option("--flatten", "picked_particles: without grid bars")
    ] = False
    remove_input: bool = False
    skip_rescaling: Annotated[
        bool, Option("--skip-rescaling", "do not clip at 3 deviations")
    ] = False
    projection: Annotated[Text, Option("--projection", "XY, XZ or YZ")] = "XY"
    thickness_ang: Annotated[
        float | None, Option("--thickness-a", "mrc_projection: length of the bar")
    ] = Field(None, gt=0)
    jitter_edge: bool = False
    file_list: tuple[Path, ...] = ()
    mask: Path | None = None
    box_size: Annotated[int, Option("--box-px", "of a picker, for picks in 3-D")] = (
        Field(0, ge=0)
    )
    target_size: tuple[int, int] | None = None
    color: Annotated[Text | None, Option("--color", "tiff_to_apng: such as green")] = (
        None
    )
    aln_file: Annotated[Path | None, Option("--aln", "alignment of AreTomo")] = None
    xf_file: Annotated[Path | None, Option("--xf", "alignment of IMOD")] = None

    @field_validator("coordinates", "selected_coordinates", mode="before")
    @classmethod
    def _without_empty_ones(cls, points: Any) -> Any:
        # Messages of crYOLO have [""] where nothing was picked.
        return [each for each in points or () if each]

    @field_validator("pixel_spacing", "pixel_size", mode="before")
    @classmethod
    def _none_for_zero(cls, value: Any) -> Any:
        return None if value in (0, "", "None", "0") else value

    @field_validator("outfile")
    @classmethod
    def _is_a_picture(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix.lower() not in SUFFIXES:
            raise ValueError(f"a name that ends in {', '.join(SUFFIXES)} was expected")
        return value

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that were named to be read."""
        named = (self.file, self.coordinates_file, self.mask, self.aln_file)
        return tuple(p for p in (*named, self.xf_file, *self.file_list) if p)

    def input(self) -> Path:
        """The file that a picture is made of.

        Raises
        ------
        DataError
            None was named.
        """
        if self.file is None:
            raise DataError(
                f"{self.image_command}: found no `file`, the path of an image was "
                "expected; name it"
            )
        return self.file

    def need(self, name: str) -> Any:
        """The value of a parameter without which this command makes no sense."""
        value = getattr(self, name)
        if value is None or value == ():
            raise DataError(
                f"{self.image_command}: found no `{name}`, a value was expected; give "
                "it"
            )
        return value
