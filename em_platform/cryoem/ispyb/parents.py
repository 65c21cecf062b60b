"""The rows that all others hang on, for a database that no other program fills."""

from dataclasses import dataclass
from datetime import datetime

from em_platform.cryoem.ispyb import tables
from em_platform.cryoem.ispyb.database import Writer


@dataclass(frozen=True, kw_only=True)
class Parents:
    """What messages call `dcid` and `program_id`."""

    dcid: int
    program_id: int


def register_collection(
    writer: Writer,
    *,
    image_directory: str,
    image_prefix: str,
    recipe: str,
    session_id: int = 0,
    experiment_type: str = "EM",
    voltage_kv: float | None = None,
    pixel_size_a: float | None = None,
) -> Parents:
    """A data collection and a program that processes it; the same again, if known.

    At a site with an ISPyB of its own, its acquisition registers them, and `session_id`
    has to be one of the site's.

    Raises
    ------
    RecordError
        The database refuses them.
    """
    collection = {"imageDirectory": image_directory, "imagePrefix": image_prefix}
    dcid = writer.find(tables.DATA_COLLECTION, collection)
    if dcid is None:
        now = datetime.now().replace(microsecond=0)
        group = writer.insert(
            tables.DATA_COLLECTION_GROUP,
            {
                "sessionId": session_id,
                "experimentType": experiment_type,
                "startTime": now,
            },
        )
        dcid = writer.insert(
            tables.DATA_COLLECTION,
            {
                **collection,
                "dataCollectionGroupId": group,
                "startTime": now,
                "voltage": voltage_kv,
                # The column's unit; the catalog of Diamond shows it so, too.
                "pixelSizeOnImage": None if pixel_size_a is None else pixel_size_a / 10,
            },
        )
    job = {"dataCollectionId": dcid, "recipe": recipe}
    job_id = writer.find(tables.PROCESSING_JOB, job)
    if job_id is None:
        job_id = writer.insert(tables.PROCESSING_JOB, {**job, "automatic": 1})
    program = {"processingJobId": job_id, "processingPrograms": "em-platform"}
    program_id = writer.find(tables.AUTO_PROC_PROGRAM, program)
    if program_id is None:
        program_id = writer.insert(tables.AUTO_PROC_PROGRAM, program)
    return Parents(dcid=dcid, program_id=program_id)
