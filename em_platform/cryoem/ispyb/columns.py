"""Which parameter of a message fills which column, and what makes a row the same."""

import re

from em_platform.cryoem.ispyb import tables

# Where the parameter has not its column's name.
_OTHER_NAMES = {
    "dataCollectionId": "dcid",
    "autoProcProgramId": "program_id",
    "firstMotionCorrectionId": "motion_correction_id",
    "globalAlignmentQuality": "alignment_quality",
    "bFactorFitId": "bfactor_id",
}
# The database fills these itself.
_OWN = {"recordTimeStamp"}
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def _parameter(column: str) -> str:
    """`dosePerFrame` is `dose_per_frame`, `bFactorFitId` is `bfactor_id`."""
    in_words = _WORDS.sub("_", column).lower().replace("b_factor", "bfactor")
    return _OTHER_NAMES.get(column, in_words)


COLUMNS: dict[str, dict[str, str]] = {
    table.name: {c.name: _parameter(c.name) for c in table.c if c.name not in _OWN}
    for table in (
        *(tables.MOTION_CORRECTION, tables.CTF, tables.RELATIVE_ICE_THICKNESS),
        *(tables.PARTICLE_PICKER, tables.PARTICLE_CLASSIFICATION_GROUP),
        *(tables.PARTICLE_CLASSIFICATION, tables.INITIAL_MODEL, tables.BFACTOR_FIT),
        *(tables.TOMOGRAM, tables.TILT_IMAGE_ALIGNMENT),
    )
}
"""Table -> column -> the parameter that fills it."""

KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "MotionCorrection": (
        ("movieId", "autoProcProgramId"),
        ("autoProcProgramId", "micrographFullPath"),
    ),
    "CTF": (("motionCorrectionId", "autoProcProgramId"),),
    "RelativeIceThickness": (("motionCorrectionId", "autoProcProgramId"),),
    "ParticlePicker": (("programId", "firstMotionCorrectionId"),),
    "ParticleClassificationGroup": (
        ("programId", "type", "batchNumber", "symmetry"),
        ("programId", "type", "batchNumber"),
    ),
    "ParticleClassification": (("particleClassificationGroupId", "classNumber"),),
    "CryoemInitialModel": (),
    "BFactorFit": (
        ("particleClassificationId", "particleBatchSize", "numberOfParticles"),
    ),
    "Tomogram": (("autoProcProgramId", "volumeFile"),),
}
"""Table -> columns that name a row; the first of which a message has all is used."""
