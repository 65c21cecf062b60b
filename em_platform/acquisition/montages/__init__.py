"""Montages as the assets ask for them: found, planned, located, judged, reviewed."""
