"""What kills a run of a platform from inside, at a moment that a test chose."""

# Python runs this file at the start of each process. In the one whose forks are runs it
# sees to it that a run is killed, once: after its last step, or after three tilts.
KILL_ONCE = """
import os, signal, sys

if any("fork_server" in part for part in sys.orig_argv):
    from dagster import DagsterInstance

    def die_once():
        if os.path.exists({wish!r}):
            os.unlink({wish!r})
            os.kill(os.getpid(), signal.SIGKILL)

    def die_after_three_tilts():
        from em_platform.simulation.tilt_series.image_files import ImageFiles

        write = ImageFiles.write

        def write_and_die(files, *given):
            write(files, *given)
            if len(files.done) == 3:
                die_once()

        ImageFiles.write = write_and_die

    store = DagsterInstance.handle_new_event

    def store_and_die(self, event, *given, **named):
        stored = store(self, event, *given, **named)
        step = event.dagster_event
        kind = step.event_type_value if step else ""
        if kind == "STEP_SUCCESS" and step.step_key == "dataset_record":
            die_once()
        if kind == "STEP_START" and step.step_key == "sim_tilt_stack":
            die_after_three_tilts()
        return stored

    DagsterInstance.handle_new_event = store_and_die
"""
