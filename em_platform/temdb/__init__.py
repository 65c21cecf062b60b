"""The TEM database: specimens, sections, tasks, acquisitions and tiles over HTTP."""
