"""Data orchestration for electron microscopy on Dagster."""
