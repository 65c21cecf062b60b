import subprocess
import sys
from graphlib import TopologicalSorter

import dagster as dg
import pytest

from em_platform.definitions import defs
from em_platform.ingest.checks import CHECKS as INGEST_CHECKS
from em_platform.ingest.sources import SOURCES
from em_platform.partitions import items, lens_key, lens_of_key

TOMOGRAPHY = (
    *("tilt_series", "alignments", "tomograms", "denoised", "thumbnails"),
    *("ispyb_tomograms", "relion_tomograms"),
)
STEPS = ("entry", "raw", "volume", "record")

SIMULATION = {
    "sim_config",
    "sim_particle_library",
    "sim_sample",
    "sim_tilt_stack",
    "sim_ground_truth",
    "sim_exports",
    "sim_record",
}
ASSETS = {
    "raw_tiles": "acquisition",
    "tiles": "acquisition",
    "tile_statistics": "acquisition",
    "uploaded_tiles": "review",
    "acquisition_review": "review",
    "temdb_tasks": "review",
    "lens_correction": "stitching",
    "tile_matches": "stitching",
    "montage_fit": "stitching",
    "mosaic": "stitching",
    "dataset_record": "catalog",
    **dict.fromkeys(SIMULATION, "simulation"),
    "metadata_catalog": "catalog",
    "validation_report": "catalog",
    **dict.fromkeys(
        ("movies", "micrographs", "ctf_fits", "particle_picks", "particles"), "cryoem"
    ),
    **dict.fromkeys(("ispyb_rows", "relion_project"), "cryoem"),
    **dict.fromkeys(("ispyb_classes", "relion_classes"), "cryoem"),
    **dict.fromkeys(("classes", *TOMOGRAPHY), "cryoem"),
    **{f"{source}/{step}": f"ingest_{source}" for source in SOURCES for step in STEPS},
}
CHECKS = {
    "tiles:montage_is_complete",
    "tiles:enough_tiles_are_present",
    "tile_statistics:tiles_are_in_focus",
    "tile_statistics:tiles_have_contrast",
    "tile_statistics:tiles_are_not_saturated",
    "lens_correction:lens_fits_well",
    "tile_matches:edges_are_matched",
    "montage_fit:montage_has_no_gaps",
    "montage_fit:seams_are_closed",
    "montage_fit:tiles_are_connected",
    "montage_fit:enough_tiles_are_connected",
    "montage_fit:montage_is_undistorted",
    "montage_fit:placements_match_truth",
    "mosaic:mosaic_is_valid",
    "micrographs:motion_is_small",
    "ctf_fits:ctf_is_fitted_far",
    "ctf_fits:ctf_fits_well",
    "particle_picks:particles_are_found",
    "tilt_series:tilts_are_complete",
    "alignments:no_tilt_is_blank",
    "alignments:alignment_is_close",
    "alignments:ice_is_thin",
    "alignments:shifts_match_truth",
    "tomograms:tomogram_matches_truth",
    "micrographs:motion_matches_truth",
    "ctf_fits:defocus_matches_truth",
    "particle_picks:picks_match_truth",
    "classes:classes_match_truth",
    "classes:averages_match_truth",
    "uploaded_tiles:all_tiles_are_uploaded",
    "uploaded_tiles:uploaded_tiles_are_whole",
    "sim_tilt_stack:stacks_are_valid",
    "sim_tilt_stack:counts_are_expected",
    "sim_ground_truth:thon_rings_match_truth",
    "sim_ground_truth:images_match_truth",
    "metadata_catalog:no_duplicates",
    "metadata_catalog:catalog_is_complete",
    "validation_report:records_are_valid",
}
INGESTED = {name for name, group in ASSETS.items() if group.startswith("ingest_")}
CONSOLIDATED = {"metadata_catalog", "validation_report"}
TRANSFER = {"uploaded_tiles", "acquisition_review"}
MOVIE = {"movies", "micrographs", "ctf_fits", "ispyb_rows", "relion_project"}
JOBS = {
    "stitch_montages": set(ASSETS)
    - TRANSFER
    - INGESTED
    - CONSOLIDATED
    - {name for name, group in ASSETS.items() if group == "cryoem"}
    - SIMULATION
    - {"lens_correction", "temdb_tasks"},
    "process_tiles": {"raw_tiles", "tiles", "tile_statistics"},
    "stitch_tiles": {"tile_matches", "montage_fit", "mosaic"},
    "record_datasets": {"dataset_record"},
    "review_acquisitions": TRANSFER,
    "calibrate_lens": {"lens_correction"},
    "consolidate_catalog": CONSOLIDATED,
    "process_movies": MOVIE,
    "process_particles": {*MOVIE, "particle_picks", "particles"},
    "classify_particles": {"classes", "ispyb_classes", "relion_classes"},
    "process_tilt_series": {*TOMOGRAPHY},
    "simulate_stacks": SIMULATION,
    **{
        f"ingest_{source}": {f"{source}/{step}" for step in STEPS} for source in SOURCES
    },
}


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return defs.get_repository_def()


def test_the_definitions_can_be_loaded() -> None:
    dg.Definitions.validate_loadable(defs)


def test_the_assets_and_their_groups_are_these(
    repository: dg.RepositoryDefinition,
) -> None:
    graph = repository.asset_graph
    found = {
        key.to_user_string(): graph.get(key).group_name
        for key in graph.get_all_asset_keys()
    }
    assert found == ASSETS


def test_the_checks_are_these(repository: dg.RepositoryDefinition) -> None:
    found = {key.to_user_string() for key in repository.asset_graph.asset_check_keys}
    ingested = {name for name in found if "/" in name}
    assert found - ingested == CHECKS
    for source in SOURCES:
        own = [name for name in ingested if name.startswith(f"{source}/")]
        assert sorted(name.partition(":")[2] for name in own) == sorted(INGEST_CHECKS)


@pytest.mark.parametrize("name", JOBS)
def test_each_job_makes_its_assets(name: str) -> None:
    keys = defs.resolve_job_def(name).asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in keys} == JOBS[name]


def test_there_is_no_other_job_sensor_or_schedule(
    repository: dg.RepositoryDefinition,
) -> None:
    assert set(repository.job_names) == {*JOBS, "image_again", "__ASSET_JOB"}
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "montage_complete_sensor",
        "inbox_sensor",
        "lens_montage_sensor",
        "upload_complete_sensor",
        "killed_runs_sensor",
        "alert_sensor",
        "history_sensor",
        "discovery_sensor",
        "heavy_ingest_sensor",
        "catalog_sensor",
        "cryoem_session_sensor",
        "simulation_plan_sensor",
    }
    assert {schedule.name for schedule in repository.schedule_defs} == {
        "hourly_stitch_montages",
        "consolidate_catalog_schedule",
        *(f"ingest_{source}_schedule" for source in SOURCES),
    }


def test_every_asset_says_what_it_is_and_whose(
    repository: dg.RepositoryDefinition,
) -> None:
    graph = repository.asset_graph
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key


def test_only_the_lens_must_be_made_again_after_some_time(
    repository: dg.RepositoryDefinition,
) -> None:
    graph = repository.asset_graph
    limited = {
        key.to_user_string()
        for key in graph.get_all_asset_keys()
        if graph.get(key).freshness_policy is not None
    }
    assert limited == {"lens_correction"}


def test_the_key_of_a_lens_tells_microscope_and_magnification() -> None:
    assert lens_of_key(lens_key("T_1", 2000)) == ("T_1", 2000)


def test_each_source_has_partitions_of_its_own() -> None:
    assert {source: str(each.name) for source, each in items.items()} == {
        "ebi": "ebi_entries",
        "epfl": "epfl_files",
        "flyem": "flyem_crops",
        "idr": "idr_images",
        "openorganelle": "openorganelle_arrays",
    }


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    heavy = (
        "tensorstore",
        "ncempy",
        "neuprint",
        "tifffile",
        "rocrate",
        "distributed",
        "gemmi",
        "mrcfile",
    )
    code = f"""
import sys
import em_platform.definitions
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run(
        (sys.executable, "-c", code), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_each_sensor_and_schedule_says_what_it_does(
    repository: dg.RepositoryDefinition,
) -> None:
    asked = [*repository.sensor_defs, *repository.schedule_defs]
    assert [each.name for each in asked if not each.description] == []


def test_the_lineage_of_groups_has_no_loop(
    repository: dg.RepositoryDefinition,
) -> None:
    graph = repository.asset_graph
    before: dict[str, set[str]] = {}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        groups = {graph.get(parent).group_name for parent in node.parent_keys}
        before.setdefault(str(node.group_name), set()).update(map(str, groups))
    sorter = TopologicalSorter(
        {group: parents - {group} for group, parents in before.items()}
    )
    order = [*sorter.static_order()]  # raises where there is a loop
    assert order.index("acquisition") < order.index("stitching") < order.index("review")
