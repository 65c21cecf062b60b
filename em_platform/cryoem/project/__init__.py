"""A project folder that RELION and doppio open and continue."""

from em_platform.cryoem.project.jobs import JOB_TYPES
from em_platform.cryoem.project.pipeline import Dialect
from em_platform.cryoem.project.record import rebuild_pipeline, record_job
from em_platform.cryoem.project.report import JobReport

__all__ = ["JOB_TYPES", "Dialect", "JobReport", "rebuild_pipeline", "record_job"]
