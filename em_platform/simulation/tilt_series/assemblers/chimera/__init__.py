"""Maps put together by UCSF Chimera or ChimeraX, through their REST servers."""

from em_platform.simulation.tilt_series.assemblers.chimera.commands import sum_commands
from em_platform.simulation.tilt_series.assemblers.chimera.compose import (
    composed_by_chimera,
)
from em_platform.simulation.tilt_series.assemblers.chimera.pool import (
    Batch,
    ChimeraPool,
)

__all__ = ["Batch", "ChimeraPool", "composed_by_chimera", "sum_commands"]
