"""The microscope's state machine (pyTEM): drives the devices through all montages.

Its requests to devices, `MoveStage`, `Capture` and the like, are in
`acquisition.machines.requests`.
"""
