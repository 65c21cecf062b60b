"""ISPyB's names are ISPyB's."""

from pathlib import Path

from sqlalchemy import inspect

from em_platform.cryoem.ispyb import open_ispyb
from em_platform.cryoem.ispyb.columns import COLUMNS

DOCUMENTED = {
    "Movie": "dataCollectionId foilHoleId movieNumber movieFullPath createdTimeStamp",
    "MotionCorrection": "dataCollectionId movieId autoProcProgramId imageNumber "
    "firstFrame lastFrame dosePerFrame doseWeight totalMotion averageMotionPerFrame "
    "driftPlotFullPath micrographFullPath micrographSnapshotFullPath patchesUsedX "
    "patchesUsedY fftFullPath fftCorrectedFullPath comments",
    "CTF": "motionCorrectionId autoProcProgramId boxSizeX boxSizeY minResolution "
    "maxResolution minDefocus maxDefocus defocusStepSize astigmatism astigmatismAngle "
    "estimatedResolution estimatedDefocus amplitudeContrast ccValue "
    "fftTheoreticalFullPath comments iceRingDensity",
    "RelativeIceThickness": "minimum q1 median q3 maximum",
    "ParticlePicker": "programId firstMotionCorrectionId particlePickingTemplate "
    "particleDiameter numberOfParticles summaryImageFullPath",
    "ParticleClassificationGroup": "particlePickerId programId type batchNumber "
    "numberOfParticlesPerBatch numberOfClassesPerBatch symmetry binnedPixelSize",
    "ParticleClassification": "classNumber classImageFullPath particlesPerClass "
    "rotationAccuracy translationAccuracy estimatedResolution classDistribution "
    "overallFourierCompleteness selected bFactorFitIntercept bFactorFitLinear "
    "bFactorFitQuadratic angularEfficiency suggestedTilt",
    "CryoemInitialModel": "resolution numberOfParticles",
    "ParticleClassification_has_CryoemInitialModel": "cryoemInitialModelId "
    "particleClassificationId",
    "BFactorFit": "particleClassificationId resolution numberOfParticles "
    "particleBatchSize",
    "Tomogram": "dataCollectionId autoProcProgramId volumeFile stackFile sizeX sizeY "
    "sizeZ pixelSpacing residualErrorMean residualErrorSD xAxisCorrection "
    "tiltAngleOffset zShift fileDirectory centralSliceImage tomogramMovie xyShiftPlot "
    "projXY projXZ globalAlignmentQuality gridSquareId pixelLocationX pixelLocationY "
    "thickness",
    "ProcessedTomogram": "tomogramId filePath processingType feature",
    "TiltImageAlignment": "movieId tomogramId defocusU defocusV psdFile resolution "
    "fitQuality refinedMagnification refinedTiltAngle refinedTiltAxis residualError",
    "AutoProcProgram": "processingStatus processingMessage processingEndTime "
    "processingStartTime processingJobId processingPrograms processingCommandLine "
    "processingEnvironment",
    "zc_ZocaloBuffer": "AutoProcProgramID UUID Reference",
}


def test_the_tables_have_the_documented_columns(tmp_path: Path) -> None:
    ispyb = open_ispyb(f"sqlite:///{tmp_path / 'ispyb.sqlite'}")
    inspector = inspect(ispyb.engine)
    for table, names in DOCUMENTED.items():
        there = {column["name"] for column in inspector.get_columns(table)}
        assert set(names.split()) <= there, table
    assert COLUMNS["Tomogram"]["globalAlignmentQuality"] == "alignment_quality"
    assert COLUMNS["Tomogram"]["projXY"] == "proj_xy"
    assert COLUMNS["Tomogram"]["residualErrorSD"] == "residual_error_sd"
    assert COLUMNS["BFactorFit"]["bFactorFitId"] == "bfactor_id"
    assert COLUMNS["ParticleClassification"]["bFactorFitLinear"] == "bfactor_fit_linear"
    ispyb.close()
