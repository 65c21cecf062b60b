"""What state machines of the microscope are made of: one thread, and requests.

The routines (`acquisition.routines`) and the coordinator are built upon it; it knows
neither.
"""
