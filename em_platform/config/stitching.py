"""Settings of matching, solving, rendering, and the limits that the checks apply."""

from em_platform.model import Model


class StitchingSettings(Model):
    """How tiles become one image."""
