"""Simulated hardware that speaks the real topics."""
