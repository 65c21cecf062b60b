"""The TEM database: specimens, sections, tasks, acquisitions and tiles over HTTP."""

from em_platform.temdb.service import run

__all__ = ["run"]
