"""Movies and tilt series that have arrived -> their partitions and runs."""

import time

import dagster as dg

from em_platform.cryoem.sessions.tables import (
    EARLY_MOVIE,
    MOVIE,
    SESSION,
    TILT_MOVIE,
    TILT_SERIES,
    Arrival,
)
from em_platform.ingest.plan import PART
from em_platform.jobs import (
    classify_particles,
    process_movies,
    process_particles,
    process_tilt_series,
)
from em_platform.partitions import CRYOEM, movies, sessions, tilt_series
from em_platform.resources.cryoem import CryoemSessions
from em_platform.sensors.history import ENDED

# Runs of one tick, which must be short; the others come at the next.
_MOST_A_TICK = 50
_SESSION = "em/session"
# Whatever has not ended.
_ACTIVE = [each for each in dg.DagsterRunStatus if each not in ENDED]
# Of tilts and single particles alike; records differ.
_EARLY = [dg.AssetKey(name) for name in ("movies", "micrographs", "ctf_fits")]
_PARTITIONS = {
    EARLY_MOVIE: movies,
    MOVIE: movies,
    TILT_MOVIE: movies,
    TILT_SERIES: tilt_series,
    SESSION: sessions,
}


@dg.sensor(
    jobs=[process_movies, process_particles, process_tilt_series, classify_particles],
    # As often as Murfey's client looks.
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a run for each movie of a session that is complete, for each "
    "tilt series whose tilts are all corrected, again when a late tilt comes, and for "
    "the particles of a session that is quiet.",
)
def cryoem_session_sensor(
    context: dg.SensorEvaluationContext, cryoem: CryoemSessions
) -> dg.SensorResult | dg.SkipReason:
    """Starts a run for whatever has become complete in the sessions' folders.

    What was seen is kept in a database in the home; the cursor is the number of the
    last arrival that was followed.
    """
    after = int(context.cursor or 0)
    with cryoem.open() as found:
        if not found.folder.is_dir():
            return dg.SkipReason(f"there is no folder {found.folder}")
        found.look(
            time.time(),
            followed=after,
            is_busy=lambda session: _is_busy(context.instance, session),
        )
        arrivals = found.ledger.arrivals(after, most=_MOST_A_TICK)
        with_particles = {
            each.session: found.settings_of(each.session).particle_diameter_a
            is not None
            for each in arrivals
        }
    if not arrivals:
        return dg.SkipReason(f"nothing new is complete in {found.folder}")
    wanted = [(each, _job(each, with_particles[each.session])) for each in arrivals]
    return dg.SensorResult(
        dynamic_partitions_requests=[
            _PARTITIONS[kind].build_add_request(
                list(dict.fromkeys(each.key for each in arrivals if each.kind == kind))
            )
            for kind in dict.fromkeys(each.kind for each in arrivals)
        ],
        run_requests=[
            dg.RunRequest(
                # A file that was changed, and a series with a late tilt, run again.
                run_key=f"{each.kind} {each.key} {each.mark}",
                job_name=job,
                partition_key=each.key,
                asset_selection=_EARLY if each.kind == EARLY_MOVIE else None,
                tags={PART: CRYOEM, _SESSION: each.session},
            )
            for each, job in wanted
            if job is not None
        ],
        cursor=str(arrivals[-1].number),
    )


def _is_busy(instance: dg.DagsterInstance, session: str) -> bool:
    """Whether a run of the session waits or goes on."""
    wanted = dg.RunsFilter(tags={_SESSION: session}, statuses=_ACTIVE)
    return bool(instance.get_runs(wanted, limit=1))


def _job(arrival: Arrival, with_particles: bool) -> str | None:
    """The job for what arrived; None where nothing is to be made of it."""
    if arrival.kind == TILT_SERIES:
        return process_tilt_series.name
    if arrival.kind == SESSION:
        return classify_particles.name if with_particles else None
    if arrival.kind == MOVIE and with_particles:
        return process_particles.name
    return process_movies.name
