"""The outside, configured."""
