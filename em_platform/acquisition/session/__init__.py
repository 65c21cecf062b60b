"""One session of the microscope: what it starts, asks for, waits for and reports."""
