"""The commands of ISPyB services: a message to rows, the same once as twice.

Names of commands and parameters are those of cryoem-services' `ispyb_connector`
(https://github.com/DiamondLightSource/cryoem-services). A row that a message names by
its own facts (a movie by its path, a fit by its micrograph) is updated, not doubled.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Table, select

from em_platform.cryoem.ispyb import tables
from em_platform.cryoem.ispyb.columns import COLUMNS, KEYS
from em_platform.cryoem.ispyb.database import Writer
from em_platform.cryoem.ispyb.lookup import Lookup, Outcome
from em_platform.cryoem.ispyb.movies import movie_of
from em_platform.errors import NoAnswer, RecordError
from em_platform.model import JsonObject


def run_command(
    writer: Writer,
    message: JsonObject,
    *,
    parameters: JsonObject,
    environment: JsonObject,
) -> Outcome:
    """Run the command that `ispyb_command` names; all of its parts are one commit.

    Parameters
    ----------
    message
        Its values win over the `parameters` of the recipe's step.
    environment
        What earlier steps have stored.

    Raises
    ------
    RecordError
        It is unknown, or a parameter is missing or wrong.
    NoAnswer
        It refers to a row that has not been written yet (retryable).
    """
    lookup = Lookup(layers=(message, parameters), environment=environment)
    try:
        outcome = _run(writer, lookup)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError(
            f"ISPyB: a value of the message is of another kind ({str(error)[:120]}), "
            "numbers and texts that a database can have were expected; correct it"
        ) from error
    return _stored(outcome, lookup.get("store_result"))


def _run(writer: Writer, lookup: Lookup) -> Outcome:
    name = str(lookup.needed("ispyb_command"))
    if name not in COMMANDS:
        raise RecordError(
            f"ISPyB: {name!r} is no command, one of {', '.join(sorted(COMMANDS))} was "
            "expected; correct ispyb_command"
        )
    outcome = COMMANDS[name](writer, lookup)
    # Only its own: a part must not store under the name that the whole has.
    return _stored(outcome, lookup.layers[0].get("store_result"))


def _stored(outcome: Outcome, name: Any) -> Outcome:
    if not name:
        return outcome
    stored = {**outcome.stored, str(name): outcome.result}
    return Outcome(result=outcome.result, stored=stored)


def _row(table: Table, lookup: Lookup) -> dict[str, Any]:
    own_id = _own_id(table)
    return {
        column: lookup.known(parameter) if column == own_id else lookup.get(parameter)
        for column, parameter in COLUMNS[table.name].items()
    }


def _own_id(table: Table) -> str:
    return next(iter(table.primary_key.columns)).name


def _upsert(table: Table) -> Callable[[Writer, Lookup], Outcome]:
    """A command that writes one row: by its id, else by what makes it that row."""
    own_id = _own_id(table)

    def write(writer: Writer, lookup: Lookup) -> Outcome:
        row = _row(table, lookup)
        found = row.pop(own_id)
        if found is None:
            for names in KEYS[table.name]:
                keys = {name: row[name] for name in names}
                if None not in keys.values():
                    found = writer.find(table, keys)
                    break
        if found is not None and writer.update(table, {own_id: found}, row):
            return Outcome(result=int(found))
        # A client may choose the id itself, as upstream's do.
        return Outcome(result=writer.insert(table, {own_id: found, **row}))

    return write


def _insert_movie(writer: Writer, lookup: Lookup) -> Outcome:
    row = {
        "dataCollectionId": lookup.needed("dcid"),
        "movieFullPath": lookup.needed("movie_path"),
    }
    found = writer.find(tables.MOVIE, row)
    row |= {
        "foilHoleId": lookup.get("foil_hole_id"),
        "movieNumber": lookup.get("movie_number"),
    }
    timestamp = lookup.get("timestamp")
    if timestamp is not None:
        row["createdTimeStamp"] = _moment(timestamp)
    if found is None:
        return Outcome(result=writer.insert(tables.MOVIE, row))
    writer.update(tables.MOVIE, {"movieId": found}, row)
    return Outcome(result=found)


def _moment(seconds: Any) -> datetime:
    try:
        return datetime.fromtimestamp(float(seconds))
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise RecordError(
            f"ISPyB: a movie has the time {str(seconds)[:80]} ({error}), expected "
            "seconds since 1970; correct the message and send it again"
        ) from error


_insert_motion = _upsert(tables.MOTION_CORRECTION)


def _insert_motion_correction(writer: Writer, lookup: Lookup) -> Outcome:
    if lookup.get("movie_id") is None:
        of_movie = {
            "movie_number": lookup.get("image_number"),
            "movie_path": lookup.get("micrograph_full_path"),
            "timestamp": lookup.get("created_time_stamp"),
        }
        movie = _insert_movie(writer, lookup.above(of_movie))
        lookup = lookup.above({"movie_id": movie.result})
    return _insert_motion(writer, lookup)


_insert_any_tomogram = _upsert(tables.TOMOGRAM)


def _insert_tomogram(writer: Writer, lookup: Lookup) -> Outcome:
    """A tomogram; before its volume is known, its row is found by all else."""
    if lookup.known("tomogram_id") is None and lookup.get("volume_file") is None:
        names = {
            *("autoProcProgramId", "dataCollectionId", "stackFile", "gridSquareId"),
            *("pixelLocationX", "pixelLocationY"),
        }
        row = _row(tables.TOMOGRAM, lookup)
        keys = {k: v for k, v in row.items() if k in names and v is not None}
        # With its stack, also a finished one: the recipe was sent again.
        begun = {} if "stackFile" in keys else {"volumeFile": None}
        found = writer.find(tables.TOMOGRAM, {**keys, **begun}) if keys else None
        lookup = lookup.above({"tomogram_id": found})
    return _insert_any_tomogram(writer, lookup)


def _insert_processed_tomogram(writer: Writer, lookup: Lookup) -> Outcome:
    feature = lookup.get("feature")
    shown = str(feature).capitalize().replace("_", " ") if feature else None
    row = {
        "tomogramId": lookup.needed("tomogram_id"),
        "filePath": lookup.get("file_path"),
        "processingType": lookup.get("processing_type"),
        "feature": shown,
    }
    found = writer.find(tables.PROCESSED_TOMOGRAM, row)
    return Outcome(result=found or writer.insert(tables.PROCESSED_TOMOGRAM, row))


def _insert_tilt_image_alignment(writer: Writer, lookup: Lookup) -> Outcome:
    tomogram = lookup.needed("tomogram_id")
    keys = {
        "movieId": lookup.get("movie_id") or movie_of(writer, lookup),
        "tomogramId": tomogram,
    }
    row = _row(tables.TILT_IMAGE_ALIGNMENT, lookup) | keys
    if not writer.update(tables.TILT_IMAGE_ALIGNMENT, keys, row):
        writer.insert(tables.TILT_IMAGE_ALIGNMENT, row)
    return Outcome(result=int(tomogram))


_insert_model = _upsert(tables.INITIAL_MODEL)


def _insert_initial_model(writer: Writer, lookup: Lookup) -> Outcome:
    of_class = lookup.needed("particle_classification_id")
    model, link = tables.INITIAL_MODEL.c, tables.INITIAL_MODEL_OF_CLASS.c
    wanted = lookup.get("cryoem_initial_model_id")
    if wanted is None:
        # The same numbers for the same class are the same model.
        same = select(model.cryoemInitialModelId).where(
            model.cryoemInitialModelId == link.cryoemInitialModelId,
            link.particleClassificationId == int(of_class),
            model.resolution == lookup.get("resolution"),
            model.numberOfParticles == lookup.get("number_of_particles"),
        )
        wanted = writer.connection.execute(same).scalar()
        lookup = lookup.above({"cryoem_initial_model_id": wanted})
    made = wanted or _insert_model(writer, lookup).result
    keys = {"cryoemInitialModelId": made, "particleClassificationId": of_class}
    if writer.find(tables.INITIAL_MODEL_OF_CLASS, keys) is None:
        writer.insert(tables.INITIAL_MODEL_OF_CLASS, keys)
    return Outcome(result=int(made))


def _update_processing_status(writer: Writer, lookup: Lookup) -> Outcome:
    program = int(lookup.needed("program_id"))
    status = {"success": 1, "failure": 0}.get(str(lookup.get("status")))
    now = datetime.now().replace(microsecond=0)
    row = {"processingMessage": lookup.get("status_message") or lookup.get("message")}
    row |= (
        {"processingStartTime": now}
        if status is None
        else {"processingStatus": status, "processingEndTime": now}
    )
    if not writer.update(tables.AUTO_PROC_PROGRAM, {"autoProcProgramId": program}, row):
        raise RecordError(
            f"ISPyB: there is no program {program}, one was expected; register it "
            "first, by register_processing"
        )
    return Outcome(result=program)


def _register_processing(writer: Writer, lookup: Lookup) -> Outcome:
    environment = lookup.get("environment") or ""
    if isinstance(environment, dict):
        environment = ", ".join(f"{key}={value}" for key, value in environment.items())
    row = {
        "processingJobId": lookup.get("rpid"),
        "processingPrograms": lookup.needed("program"),
        "processingCommandLine": lookup.get("cmdline"),
        "processingEnvironment": str(environment)[:255],
    }
    # One that has ended is history: the same command is another run then.
    found = writer.find(tables.AUTO_PROC_PROGRAM, {**row, "processingEndTime": None})
    return Outcome(result=found or writer.insert(tables.AUTO_PROC_PROGRAM, row))


def _add_program_attachment(_: Writer, __: Lookup) -> Outcome:
    # Upstream takes it and does nothing; old wrappers still send it.
    return Outcome(result=0)


def _multipart_message(writer: Writer, lookup: Lookup) -> Outcome:
    """The commands of a list, each with what those before it stored."""
    commands = lookup.get("ispyb_command_list")
    if not isinstance(commands, list) or not all(isinstance(c, dict) for c in commands):
        raise RecordError(
            "ISPyB: multipart_message has no list of commands, one was expected; give "
            "it as ispyb_command_list"
        )
    result, stored = 0, dict(lookup.environment)
    written: dict[str, set[int]] = {}
    for command in commands:
        if command.get("ispyb_command") == "multipart_message":
            raise RecordError(
                "ISPyB: multipart_message holds another one, single commands were "
                "expected; write them into one list"
            )
        layers = (command, *lookup.layers)
        outcome = _run(writer, Lookup(layers=layers, environment=stored))
        result = outcome.result
        stored |= outcome.stored
        of_buffer = command.get("buffer_command") or {}
        name = str(of_buffer.get("ispyb_command") or command.get("ispyb_command"))
        written.setdefault(name, set()).add(result)
    _empty_other_classes(writer, written)
    new = {k: v for k, v in stored.items() if lookup.environment.get(k) != v}
    return Outcome(result=result, stored=new)


def _empty_other_classes(writer: Writer, written: Mapping[str, set[int]]) -> None:
    """A group that came with its classes has no others, as of a run with more.

    As in upstream's services an empty class is a row without particles: the client's
    numbers, fits and models may refer to it.
    """
    groups = written.get("insert_particle_classification_group")
    classes = written.get("insert_particle_classification")
    if not groups or not classes:
        return
    table = tables.PARTICLE_CLASSIFICATION
    others = select(table.c.particleClassificationId).where(
        table.c.particleClassificationGroupId.in_(groups),
        table.c.particleClassificationId.not_in(classes),
    )
    empty = {
        **{"particlesPerClass": 0, "classDistribution": 0.0, "selected": 0},
        # ISPyB's 0 is RELION's infinite.
        **{"estimatedResolution": 0.0, "classImageFullPath": ""},
    }
    for each in writer.connection.execute(others).scalars().all():
        writer.update(table, {"particleClassificationId": each}, empty)


def _buffer(writer: Writer, lookup: Lookup) -> Outcome:
    """A command whose rows other messages may name by a number of the client's own."""
    command = lookup.get("buffer_command")
    if not isinstance(command, dict) or not command.get("ispyb_command"):
        raise RecordError(
            "ISPyB: buffer has no command, one was expected; give it as buffer_command"
        )
    program = int(lookup.needed("program_id"))
    looked_up = {}
    for name, uuid in dict(lookup.get("buffer_lookup") or {}).items():
        reference = writer.connection.execute(
            select(tables.BUFFER.c.Reference).where(
                tables.BUFFER.c.AutoProcProgramID == program,
                tables.BUFFER.c.UUID == int(uuid),
            )
        ).scalar()
        if reference is None:
            raise NoAnswer(
                f"ISPyB: program {program} has stored nothing as {uuid} yet, {name} "
                "was expected there; the message is tried again"
            )
        looked_up[name] = reference
    outcome = _run(writer, lookup.above({**command, **looked_up}))
    store = lookup.get("buffer_store")
    # The column has no sign, and -1 means that nobody will ask for it.
    if store is not None and int(store) >= 0:
        keys = {"AutoProcProgramID": program, "UUID": int(store)}
        row = {"Reference": outcome.result}
        if not writer.update(tables.BUFFER, keys, row):
            writer.insert(tables.BUFFER, {**keys, **row})
    return outcome


COMMANDS: dict[str, Callable[[Writer, Lookup], Outcome]] = {
    "insert_movie": _insert_movie,
    "insert_motion_correction": _insert_motion_correction,
    "insert_ctf": _upsert(tables.CTF),
    "insert_relative_ice_thickness": _upsert(tables.RELATIVE_ICE_THICKNESS),
    "insert_particle_picker": _upsert(tables.PARTICLE_PICKER),
    "insert_particle_classification_group": _upsert(
        tables.PARTICLE_CLASSIFICATION_GROUP
    ),
    "insert_particle_classification": _upsert(tables.PARTICLE_CLASSIFICATION),
    "insert_cryoem_initial_model": _insert_initial_model,
    "insert_bfactor_fit": _upsert(tables.BFACTOR_FIT),
    "insert_tomogram": _insert_tomogram,
    "insert_processed_tomogram": _insert_processed_tomogram,
    "insert_tilt_image_alignment": _insert_tilt_image_alignment,
    "update_processing_status": _update_processing_status,
    "register_processing": _register_processing,
    "add_program_attachment": _add_program_attachment,
    "multipart_message": _multipart_message,
    "buffer": _buffer,
}
"""Name of a command -> what it does."""
