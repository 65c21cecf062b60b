"""The microscope's state machine (pyTEM): drives the devices through all montages."""
