"""What lies under the simulated beam: procedural tissue, or any volume.

`tissue` draws one window from a seed, `Sections` keep what was drawn, and
`open_specimen` takes either these or a volume given by its path.
"""
