"""Acquisition sessions: folders in which movies and mdocs arrive, and their results."""
