"""What calibrations are called in messages, and their states in the machine."""

STATES = {
    "find_aperture": "FindAperture",
    "auto_exposure": "AutoExposure",
    "beam_center": "BeamCenter",
    "beam_spread": "BeamSpread",
    "calibrate_resolution": "CalibrateResolution",
    "bright_field": "Brightfield",
    "dark_field": "Darkfield",
    "auto_focus": "AutoFocus",
}
"""Calibration -> state, in the order in which they are done before a montage."""
