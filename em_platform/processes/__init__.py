"""Child processes that are kept running, and that never outlive their parent."""

from em_platform.processes.ports import free_port, listens
from em_platform.processes.session import SESSION_VARIABLE, end_session, members
from em_platform.processes.supervisor import Child, Supervisor

__all__ = [
    "SESSION_VARIABLE",
    "Child",
    "Supervisor",
    "end_session",
    "free_port",
    "listens",
    "members",
]
