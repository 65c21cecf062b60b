"""The distortion of one microscope's lens at one magnification."""

from pydantic import Field

from em_platform.model.base import Model
from em_platform.model.geometry import Size


class LensModel(Model):
    """A polynomial displacement field: `corrected = measured + field(measured)`.

    The polynomial runs over normalised coordinates `u = (2 y - (h - 1)) / max(h, w)`,
    `v = (2 x - (w - 1)) / max(h, w)`; coefficient k multiplies `u**i * v**j` in the
    order of increasing total degree, then increasing j. Displacements are in pixels.
    The constant and the magnification/rotation part are zero by choice of gauge.
    """

    microscope: str
    magnification: int
    size: Size
    degree: int = Field(ge=2, le=9)
    dy_px: tuple[float, ...]
    dx_px: tuple[float, ...]
    residual_mean_px: float
    residual_std_px: float
    points: int
