"""The tables of ISPyB that cryo-EM processing writes, with ISPyB's own names.

A subset: what a table of a full ISPyB has beyond this keeps its default. Names, types
and keys: https://github.com/DiamondLightSource/ispyb-database, `schemas/ispyb`.
"""

from sqlalchemy import (
    Column,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    func,
)
from sqlalchemy.dialects.mysql import INTEGER

METADATA = MetaData()

FEATURES = (
    *("Membrane", "Microtubule", "Ribosome", "Tric", "Actin", "Cytoplasm"),
    *("Cytoplasmic granule", "Lipid droplet", "Mitochondrial granule"),
    *("Mitochondrion", "Npc", "Nuclear envelope", "Nucleus", "Prohibitin"),
    *("Proteasome", "Vault", "Vimentin", "Void"),
)
"""What a processed tomogram may show."""

# A foreign key has to be as wide and as unsigned as the key that it names.
_ID = Integer().with_variant(INTEGER(unsigned=True), "mysql", "mariadb")


def _key(name: str) -> Column[int]:
    return Column(name, _ID, primary_key=True)


def _reference(
    name: str, to: str, *, needed: bool = False, primary: bool = False
) -> Column[int]:
    return Column(
        name, _ID, ForeignKey(to), nullable=not (needed or primary), primary_key=primary
    )


def _integers(*names: str) -> list[Column[int]]:
    return [Column(name, Integer) for name in names]


def _floats(*names: str) -> list[Column[float]]:
    return [Column(name, Float) for name in names]


def _texts(*names: str, length: int = 255) -> list[Column[str]]:
    return [Column(name, String(length)) for name in names]


def _times(*names: str) -> list[Column[object]]:
    return [Column(name, DateTime) for name in names]


def _recorded(name: str) -> Column[object]:
    return Column(name, DateTime, nullable=False, server_default=func.now())


def _choice(name: str, *values: str) -> Column[str]:
    # PostgreSQL would make a type of its own, which no later column could share.
    return Column(name, Enum(*values, native_enum=False, create_constraint=False))


DATA_COLLECTION_GROUP = Table(
    "DataCollectionGroup",
    METADATA,
    _key("dataCollectionGroupId"),
    Column("sessionId", _ID, nullable=False),
    *_texts("comments", length=1024),
    *_texts("experimentType", length=45),
    *_times("startTime", "endTime"),
    *_integers("experimentTypeId"),
)

DATA_COLLECTION = Table(
    "DataCollection",
    METADATA,
    _key("dataCollectionId"),
    _reference(
        "dataCollectionGroupId",
        "DataCollectionGroup.dataCollectionGroupId",
        needed=True,
    ),
    *_integers("SESSIONID", "dataCollectionNumber", "numberOfImages"),
    *_texts("experimenttype", length=24),
    *_times("startTime", "endTime"),
    *_texts("runStatus", "imagePrefix", "imageSuffix", length=45),
    *_texts("imageDirectory", "fileTemplate"),
    *_texts("comments", length=1024),
    *_floats("magnification", "voltage", "pixelSizeOnImage", "totalExposedDose"),
    *_floats("nominalDefocus", "exposureTime", "c2aperture"),
    *_integers("imageSizeX", "imageSizeY", "phasePlate"),
)

PROCESSING_JOB = Table(
    "ProcessingJob",
    METADATA,
    _key("processingJobId"),
    _reference("dataCollectionId", "DataCollection.dataCollectionId"),
    *_texts("displayName", length=80),
    *_texts("comments"),
    _recorded("recordTimestamp"),
    *_texts("recipe", length=50),
    Column("automatic", SmallInteger),
)

PROCESSING_JOB_PARAMETER = Table(
    "ProcessingJobParameter",
    METADATA,
    _key("processingJobParameterId"),
    _reference("processingJobId", "ProcessingJob.processingJobId"),
    *_texts("parameterKey", length=80),
    *_texts("parameterValue", length=1024),
)

AUTO_PROC_PROGRAM = Table(
    "AutoProcProgram",
    METADATA,
    _key("autoProcProgramId"),
    *_texts("processingCommandLine", "processingPrograms"),
    Column("processingStatus", SmallInteger),
    *_texts("processingMessage"),
    *_times("processingStartTime", "processingEndTime"),
    *_texts("processingEnvironment"),
    *_times("recordTimeStamp"),
    _reference("processingJobId", "ProcessingJob.processingJobId"),
    *_integers("processingPipelineId", "parentAutoProcProgramId"),
)

BUFFER = Table(
    "zc_ZocaloBuffer",
    METADATA,
    _reference("AutoProcProgramID", "AutoProcProgram.autoProcProgramId", primary=True),
    Column("UUID", _ID, primary_key=True, autoincrement=False),
    *_integers("Reference"),
)

ATLAS = Table(
    "Atlas",
    METADATA,
    _key("atlasId"),
    _reference(
        "dataCollectionGroupId",
        "DataCollectionGroup.dataCollectionGroupId",
        needed=True,
    ),
    Column("atlasImage", String(255), nullable=False),
    Column("pixelSize", Float, nullable=False),
    *_integers("cassetteSlot"),
)

GRID_SQUARE = Table(
    "GridSquare",
    METADATA,
    _key("gridSquareId"),
    _reference("atlasId", "Atlas.atlasId", needed=True),
    *_integers("gridSquareLabel"),
    *_texts("gridSquareImage"),
    *_integers("pixelLocationX", "pixelLocationY", "height", "width"),
    *_floats("angle", "stageLocationX", "stageLocationY"),
    *_floats("qualityIndicator", "pixelSize"),
)

FOIL_HOLE = Table(
    "FoilHole",
    METADATA,
    _key("foilHoleId"),
    _reference("gridSquareId", "GridSquare.gridSquareId", needed=True),
    Column("foilHoleLabel", String(30), nullable=False),
    *_texts("foilHoleImage"),
    *_integers("pixelLocationX", "pixelLocationY", "diameter"),
    *_floats("stageLocationX", "stageLocationY", "qualityIndicator", "pixelSize"),
)

MOVIE = Table(
    "Movie",
    METADATA,
    _key("movieId"),
    _reference("dataCollectionId", "DataCollection.dataCollectionId"),
    *_integers("movieNumber"),
    *_texts("movieFullPath"),
    _recorded("createdTimeStamp"),
    *_floats("positionX", "positionY", "nominalDefocus", "angle", "fluence"),
    *_integers("numberOfFrames"),
    _reference("foilHoleId", "FoilHole.foilHoleId"),
    *_integers("templateLabel"),
)

MOTION_CORRECTION = Table(
    "MotionCorrection",
    METADATA,
    _key("motionCorrectionId"),
    _reference("dataCollectionId", "DataCollection.dataCollectionId"),
    _reference("autoProcProgramId", "AutoProcProgram.autoProcProgramId"),
    *_integers("imageNumber", "firstFrame", "lastFrame"),
    *_floats("dosePerFrame", "doseWeight", "totalMotion", "averageMotionPerFrame"),
    *_texts("driftPlotFullPath", "micrographFullPath", "micrographSnapshotFullPath"),
    *_integers("patchesUsedX", "patchesUsedY"),
    *_texts("fftFullPath", "fftCorrectedFullPath", "comments"),
    _reference("movieId", "Movie.movieId"),
)

CTF = Table(
    "CTF",
    METADATA,
    _key("ctfId"),
    _reference("motionCorrectionId", "MotionCorrection.motionCorrectionId"),
    _reference("autoProcProgramId", "AutoProcProgram.autoProcProgramId"),
    *_floats("boxSizeX", "boxSizeY", "minResolution", "maxResolution"),
    *_floats("minDefocus", "maxDefocus", "defocusStepSize"),
    *_floats("astigmatism", "astigmatismAngle"),
    *_floats("estimatedResolution", "estimatedDefocus", "amplitudeContrast"),
    *_floats("ccValue"),
    *_texts("fftTheoreticalFullPath", "comments"),
    *_floats("iceRingDensity"),
)

RELATIVE_ICE_THICKNESS = Table(
    "RelativeIceThickness",
    METADATA,
    _key("relativeIceThicknessId"),
    _reference("motionCorrectionId", "MotionCorrection.motionCorrectionId"),
    _reference("autoProcProgramId", "AutoProcProgram.autoProcProgramId"),
    *_floats("minimum", "q1", "median", "q3", "maximum"),
)

PARTICLE_PICKER = Table(
    "ParticlePicker",
    METADATA,
    _key("particlePickerId"),
    _reference("programId", "AutoProcProgram.autoProcProgramId"),
    _reference("firstMotionCorrectionId", "MotionCorrection.motionCorrectionId"),
    *_texts("particlePickingTemplate"),
    *_floats("particleDiameter"),
    *_integers("numberOfParticles"),
    *_texts("summaryImageFullPath"),
)

PARTICLE_CLASSIFICATION_GROUP = Table(
    "ParticleClassificationGroup",
    METADATA,
    _key("particleClassificationGroupId"),
    _reference("particlePickerId", "ParticlePicker.particlePickerId"),
    _reference("programId", "AutoProcProgram.autoProcProgramId"),
    _choice("type", "2D", "3D"),
    *_integers("batchNumber", "numberOfParticlesPerBatch", "numberOfClassesPerBatch"),
    *_texts("symmetry", length=20),
    *_floats("binnedPixelSize"),
)

PARTICLE_CLASSIFICATION = Table(
    "ParticleClassification",
    METADATA,
    _key("particleClassificationId"),
    *_integers("classNumber"),
    *_texts("classImageFullPath"),
    *_integers("particlesPerClass"),
    *_floats("rotationAccuracy", "translationAccuracy", "estimatedResolution"),
    *_floats("overallFourierCompleteness"),
    _reference(
        "particleClassificationGroupId",
        "ParticleClassificationGroup.particleClassificationGroupId",
    ),
    *_floats("classDistribution"),
    Column("selected", SmallInteger, server_default="0"),
    *_floats("bFactorFitIntercept", "bFactorFitLinear", "bFactorFitQuadratic"),
    *_floats("angularEfficiency", "suggestedTilt"),
)

INITIAL_MODEL = Table(
    "CryoemInitialModel",
    METADATA,
    _key("cryoemInitialModelId"),
    *_floats("resolution"),
    *_integers("numberOfParticles"),
)

INITIAL_MODEL_OF_CLASS = Table(
    "ParticleClassification_has_CryoemInitialModel",
    METADATA,
    _reference(
        "particleClassificationId",
        "ParticleClassification.particleClassificationId",
        primary=True,
    ),
    _reference(
        "cryoemInitialModelId", "CryoemInitialModel.cryoemInitialModelId", primary=True
    ),
)

BFACTOR_FIT = Table(
    "BFactorFit",
    METADATA,
    _key("bFactorFitId"),
    _reference(
        "particleClassificationId",
        "ParticleClassification.particleClassificationId",
        needed=True,
    ),
    *_floats("resolution"),
    *_integers("numberOfParticles", "particleBatchSize"),
)

TOMOGRAM = Table(
    "Tomogram",
    METADATA,
    _key("tomogramId"),
    _reference("dataCollectionId", "DataCollection.dataCollectionId"),
    _reference("autoProcProgramId", "AutoProcProgram.autoProcProgramId"),
    *_texts("volumeFile", "stackFile"),
    *_integers("sizeX", "sizeY", "sizeZ"),
    *_floats("pixelSpacing", "residualErrorMean", "residualErrorSD"),
    *_floats("xAxisCorrection", "tiltAngleOffset", "zShift"),
    *_texts("fileDirectory", "centralSliceImage", "tomogramMovie", "xyShiftPlot"),
    *_texts("projXY", "projXZ"),
    Column("recordTimeStamp", DateTime, server_default=func.now()),
    *_floats("globalAlignmentQuality"),
    _reference("gridSquareId", "GridSquare.gridSquareId"),
    *_integers("pixelLocationX", "pixelLocationY"),
    *_floats("thickness"),  # of schema 5.2; older databases have none
)

PROCESSED_TOMOGRAM = Table(
    "ProcessedTomogram",
    METADATA,
    _key("processedTomogramId"),
    _reference("tomogramId", "Tomogram.tomogramId", needed=True),
    *_texts("filePath", "processingType"),
    _choice("feature", *FEATURES),
)

TILT_IMAGE_ALIGNMENT = Table(
    "TiltImageAlignment",
    METADATA,
    _reference("movieId", "Movie.movieId", primary=True),
    _reference("tomogramId", "Tomogram.tomogramId", primary=True),
    *_floats("defocusU", "defocusV"),
    *_texts("psdFile"),
    *_floats("resolution", "fitQuality", "refinedMagnification"),
    *_floats("refinedTiltAngle", "refinedTiltAxis", "residualError"),
)

AUTO_PROC_PROGRAM_ATTACHMENT = Table(
    "AutoProcProgramAttachment",
    METADATA,
    _key("autoProcProgramAttachmentId"),
    _reference("autoProcProgramId", "AutoProcProgram.autoProcProgramId", needed=True),
    _choice("fileType", "Log", "Result", "Graph", "Debug", "Input"),
    *_texts("fileName", "filePath"),
    *_times("recordTimeStamp"),
)
