"""What state machines of the microscope are made of: one thread, and requests.

The routines (`acquisition.routines`) and the coordinator are built upon it; it knows
neither. A routine is a `Machine` that is made by `Routine(settings.acquisition)` and
whose last states are `Success` and `Failure`:

- The coordinator maps `Success` to its next state. `Failure` stays until `resume`,
  which begins again, or until the operator cancels.
- Before it goes to `Failure` it sets `self.context.problem` to a sentence for the
  operator; the requests do so themselves.
- What it finds it publishes (`calibration.*`) or writes into
  `self.context.references`; the coordinator receives its own messages like any other.
- It does not raise the screen or set the magnification, unless it changed them.
"""
