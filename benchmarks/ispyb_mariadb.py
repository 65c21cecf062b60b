"""A MariaDB with ISPyB's schema takes the rows of every command, once for twice.

    python -m benchmarks.ispyb_mariadb [--schema tables.sql ...]

Starts a private MariaDB (`apt-get install mariadb-server`), loads the SQL files of
ISPyB's public schema in the order given, and sends one message of each command, twice.
Without `--schema` the tables are our own documented subset. Each row is read back; its
values are those that SQLite gets. About 20 s.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, select, text

from em_platform.cryoem.ispyb import (
    Ispyb,
    open_ispyb,
    register_collection,
    run_command,
)
from em_platform.cryoem.ispyb.tables import METADATA

_WITHIN_S = 60.0
_IMAGE = "/d/p/MotionCorr/job002/Movies/TS_1_001_3.0"
# In the order of a session; `$name` is what an earlier one stored.
MESSAGES: tuple[dict[str, Any], ...] = (
    {
        "ispyb_command": "insert_movie",
        "movie_path": "/raw/TS_1_001_3.0.tiff",
        "movie_number": 1,
        "store_result": "movie_id",
    },
    {
        "ispyb_command": "buffer",
        "buffer_command": {"ispyb_command": "insert_motion_correction"},
        "buffer_store": 7,
        "movie_id": "$movie_id",
        "first_frame": 1,
        "last_frame": 40,
        "dose_per_frame": 1.1,
        "total_motion": 31.25,
        "average_motion_per_frame": 0.78,
        "micrograph_full_path": f"{_IMAGE}.mrc",
        "micrograph_snapshot_full_path": f"{_IMAGE}.jpeg",
        "drift_plot_full_path": f"{_IMAGE}_drift_plot.json",
        "patches_used_x": 5,
        "patches_used_y": 5,
        "store_result": "motion_correction_id",
    },
    {
        "ispyb_command": "buffer",
        "buffer_command": {"ispyb_command": "insert_ctf"},
        "buffer_lookup": {"motion_correction_id": 7},
        "box_size_x": 512,
        "box_size_y": 512,
        "min_resolution": 30,
        "max_resolution": 5,
        "min_defocus": 2000,
        "max_defocus": 90000,
        "defocus_step_size": 100,
        "astigmatism": 120.5,
        "astigmatism_angle": -31.5,
        "estimated_resolution": 4.25,
        "estimated_defocus": 15000,
        "amplitude_contrast": 0.1,
        "cc_value": 0.125,
        "ice_ring_density": 0.5,
        "fft_theoretical_full_path": "/d/p/CtfFind/job003/Movies/TS_1_001_3.0.jpeg",
    },
    {
        "ispyb_command": "insert_relative_ice_thickness",
        "motion_correction_id": "$motion_correction_id",
        "minimum": 1,
        "q1": 2,
        "median": 3,
        "q3": 4,
        "maximum": 5,
    },
    {
        "ispyb_command": "insert_particle_picker",
        "motion_correction_id": "$motion_correction_id",
        "particle_picking_template": "em-platform LoG",
        "particle_diameter": 18,
        "number_of_particles": 312,
        "summary_image_full_path": "/d/p/AutoPick/job004/Movies/a.jpeg",
        "store_result": "particle_picker_id",
    },
    {
        "ispyb_command": "insert_particle_classification_group",
        "particle_picker_id": "$particle_picker_id",
        "type": "2D",
        "batch_number": 1,
        "number_of_particles_per_batch": 50000,
        "number_of_classes_per_batch": 50,
        "symmetry": "C1",
        "store_result": "particle_classification_group_id",
    },
    {
        "ispyb_command": "insert_particle_classification",
        "particle_classification_group_id": "$particle_classification_group_id",
        "class_number": 1,
        "class_image_full_path": "/d/p/Class2D/job008/1.jpeg",
        "particles_per_class": 1234,
        "class_distribution": 0.25,
        "estimated_resolution": 12.5,
        "selected": 1,
        "store_result": "particle_classification_id",
    },
    {
        "ispyb_command": "insert_cryoem_initial_model",
        "particle_classification_id": "$particle_classification_id",
        "resolution": 15.5,
        "number_of_particles": 1000,
    },
    {
        "ispyb_command": "insert_bfactor_fit",
        "particle_classification_id": "$particle_classification_id",
        "resolution": 3.25,
        "number_of_particles": 1000,
        "particle_batch_size": 500,
    },
    {
        "ispyb_command": "multipart_message",
        "ispyb_command_list": [
            {
                "ispyb_command": "insert_tomogram",
                "volume_file": "TS_1_Vol.mrc",
                "stack_file": "/d/p/Tomograms/job006/tomograms/TS_1.mrc",
                "file_directory": "/d/p/Tomograms/job006/tomograms",
                "size_x": 1024,
                "size_y": 1024,
                "size_z": 300,
                "pixel_spacing": 6.5,
                "tilt_angle_offset": -1.25,
                "z_shift": 0,
                "alignment_quality": 0.5,
                "thickness": 180.5,
                "store_result": "tomogram_id",
            },
            {
                "ispyb_command": "insert_tilt_image_alignment",
                "tomogram_id": "$tomogram_id",
                "path": f"{_IMAGE}.mrc",
                "refined_magnification": 1,
                "refined_tilt_angle": 3.125,
                "refined_tilt_axis": 84.5,
                "residual_error": 0.25,
            },
            {
                "ispyb_command": "insert_processed_tomogram",
                "tomogram_id": "$tomogram_id",
                "file_path": "/d/p/Denoise/job007/tomograms/TS_1.denoised.mrc",
                "processing_type": "Denoised",
            },
        ],
    },
    {
        "ispyb_command": "update_processing_status",
        "status": "success",
        "status_message": "processing successful",
    },
    {
        "ispyb_command": "register_processing",
        "program": "em-platform",
        "cmdline": "em-platform cryoem recipe run em-tomo-align",
    },
)


@contextmanager
def mariadb(folder: Path) -> Iterator[tuple[str, Path]]:
    """URL of an empty database, and the socket of its server."""
    if shutil.which("mariadb-install-db") is None:
        sys.exit("MariaDB is not installed: apt-get install mariadb-server")
    data, link = folder / "data", folder / "s"
    user = os.environ.get("USER") or "root"
    common = ("--no-defaults", f"--datadir={data}", f"--user={user}")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(
        ("mariadb-install-db", *common, "--auth-root-authentication-method=normal"),
        check=True,
        **quiet,  # type: ignore[call-overload]
    )
    server = subprocess.Popen(
        ("mariadbd", *common, f"--socket={link}", "--skip-networking"),
        **quiet,  # type: ignore[call-overload]
    )
    try:
        deadline = time.monotonic() + _WITHIN_S
        while not _asked(link, "CREATE DATABASE ispyb"):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit("MariaDB did not start")
            time.sleep(0.2)
        yield f"mysql://root@localhost/ispyb?unix_socket={link}", link
    finally:
        server.terminate()
        server.wait()


def _asked(link: Path, sql: str) -> bool:
    command = ("mariadb", "--no-defaults", f"--socket={link}", "-u", "root", "-e", sql)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def load(link: Path, path: Path) -> None:
    """Run an SQL file in the database."""
    command = ("mariadb", "--no-defaults", f"--socket={link}", "-u", "root", "ispyb")
    with path.open("rb") as sql:
        ran = subprocess.run(command, stdin=sql, capture_output=True, check=False)
    if ran.returncode != 0:
        sys.exit(f"{path}: {ran.stderr.decode()[-500:]}")


def session_of(database: Ispyb) -> int:
    """A session of the site's, which only a full schema has; else 0."""
    with database.engine.begin() as connection:
        if not inspect(connection).has_table("BLSession"):
            return 0
        last = text("SELECT LAST_INSERT_ID()")
        connection.execute(text("INSERT INTO Person (login) VALUES ('em')"))
        person = connection.execute(last).scalar_one()
        proposal = text("INSERT INTO Proposal (personId) VALUES (:id)")
        connection.execute(proposal, {"id": person})
        made = connection.execute(last).scalar_one()
        session = text("INSERT INTO BLSession (proposalId) VALUES (:id)")
        connection.execute(session, {"id": made})
        return int(connection.execute(last).scalar_one())


def rows_after(database: Ispyb, session: int) -> dict[str, list[dict[str, Any]]]:
    """Send all messages; what the tables then hold, without times."""
    with database.write() as writer:
        parents = register_collection(
            writer,
            image_directory="/raw",
            image_prefix="TS_1",
            recipe="em-tomo-preprocess",
            session_id=session,
        )
    known = {"dcid": parents.dcid, "program_id": parents.program_id}
    environment: dict[str, Any] = {}
    for message in MESSAGES:
        with database.write() as writer:
            outcome = run_command(
                writer, message, parameters=known, environment=environment
            )
        environment |= outcome.stored
    found = {}
    with database.engine.connect() as connection:
        for name, table in METADATA.tables.items():
            columns = [c for c in table.c if "Time" not in c.name]
            there = database.known_columns(table, connection)
            asked = select(*(c for c in columns if c.name in there))
            rows = [dict(row) for row in connection.execute(asked).mappings()]
            if rows:
                found[name] = rows
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schema", type=Path, nargs="*", default=())
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain = open_ispyb(f"sqlite:///{folder}/ispyb.sqlite")
        wanted = rows_after(plain, 0)
        plain.close()
        with mariadb(Path(folder)) as (url, link):
            for path in given.schema:
                load(link, path)
            database = open_ispyb(url)
            session = session_of(database)
            first = rows_after(database, session)
            second = rows_after(database, session)
            database.close()
    wrong = [] if first == second else ["a second time changed the rows"]
    for name, rows in wanted.items():
        for ours, theirs in zip(rows, first.get(name, ()), strict=False):
            for column, value in ours.items():
                # The number of the session and columns without a value are the site's.
                if column == "sessionId" or value is None or column not in theirs:
                    continue
                if not same(theirs[column], value):
                    wrong.append(f"{name}.{column}: {theirs[column]} != {value}")
        print(f"{name:35} {len(first.get(name, ()))} of {len(rows)}")
        if len(first.get(name, ())) != len(rows):
            wrong.append(f"{name}: {len(first.get(name, ()))} rows of {len(rows)}")
    for warned in sorted(database.warned):
        print(f"left out, as this schema has it not: {warned}")
    if wrong:
        sys.exit("\n".join(wrong))
    print("each row is as in SQLite, and a second time changes none")


def same(found: Any, wanted: Any) -> bool:
    """Whether a column gives the value back; its type may have fewer digits."""
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return abs(found - wanted) <= 1e-5 * abs(wanted)
    return bool(found == wanted)


if __name__ == "__main__":
    main()
