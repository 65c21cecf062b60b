"""What the commands of the images service may be given."""

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, field_validator

from em_platform.cryoem.stage import StageParameters
from em_platform.errors import DataError

Point = tuple[float, float]


class ImageParameters(StageParameters):
    """The parameters of all commands; each takes those that it knows."""

    image_command: str = Field("", description="which picture; empty: by the file")
    file: Path | None = Field(
        None, validation_alias=AliasChoices("file", "input_file", "xrm_file")
    )
    all_frames: bool = Field(False, description="mrc_to_jpeg: a picture a slice")
    thumbnail_x: int | None = Field(None, gt=0)
    thumbnail_y: int | None = Field(None, gt=0)
    flip: bool = Field(False, description="mrc_to_jpeg: upside down")
    output_suffix: str | None = None
    pixel_spacing: float | None = Field(
        None, gt=0, description="Å a pixel; gives pictures a scale bar"
    )
    coordinates: tuple[Point, ...] = Field((), description="x y of the picks, px")
    selected_coordinates: tuple[Point, ...] = ()
    coordinates_file: Path | None = Field(None, description="STAR or CBOX of picks")
    pixel_size: float | None = Field(
        None, gt=0, validation_alias=AliasChoices("pixel_size", "pix_size", "angpix")
    )
    diameter: float | None = Field(None, gt=0, description="of a particle, Å")
    outfile: Path | None = Field(
        None, validation_alias=AliasChoices("outfile", "output_file")
    )
    contrast_factor: float = 6
    flatten_image: bool = Field(False, description="picked_particles: grey grid bars")
    remove_input: bool = False
    skip_rescaling: bool = Field(False, description="do not clip at 3 deviations")
    projection: str = Field("XY", description="XY, XZ or YZ")
    thickness_ang: float | None = Field(None, gt=0)
    jitter_edge: bool = Field(False, description="mrc_to_apng: a dotted frame")
    file_list: tuple[Path, ...] = ()
    mask: Path | None = None
    box_size: int = Field(0, ge=0, description="picks in 3-D: the picker's box, px")
    target_size: tuple[int, int] | None = Field(None, description="height, width")
    color: str | None = None
    aln_file: Path | None = Field(None, description="alignment of AreTomo")
    xf_file: Path | None = Field(None, description="alignment of IMOD")

    @field_validator("coordinates", "selected_coordinates", mode="before")
    @classmethod
    def _without_empty_ones(cls, points: Any) -> Any:
        # Messages of crYOLO have [""] where nothing was picked.
        return [each for each in points or () if each]

    @field_validator("pixel_spacing", "pixel_size", mode="before")
    @classmethod
    def _none_for_zero(cls, value: Any) -> Any:
        return None if value in (0, "", "None", "0") else value

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
