"""What aloha registers in the TEM database of an acquisition."""

from typing import TYPE_CHECKING, Any

from em_platform.messaging.topics import inverted_focus
from em_platform.model import AcquisitionUpload, NeighbourMatch, UploadedTile
from em_platform.storage import Store, layout
from em_platform.temdb.acquired import (
    AcquiredMontage,
    AcquiredTile,
    MatchedNeighbour,
)

if TYPE_CHECKING:
    from em_platform.temdb.register import Register


def register_complete(
    register: "Register", upload: AcquisitionUpload, store: Store
) -> None:
    """Say that an acquisition is complete and its tiles are in the store.

    Saying it again changes nothing.
    """
    key = upload.acquisition_id
    register.ensure_acquisition(acquired_montage(upload))
    register.put_tiles(key, [acquired_tile(tile) for tile in upload.tiles])
    register.add_place(key, store.url(layout.uploaded_acquisition(key)), holds="tiles")
    # Behind the tiles: a status is written once, and sums over the tiles with it.
    register.finish(key, status="complete", ended_at=upload.ended_at)
    register.set_transfer(key, "complete")


def register_aborted(
    register: "Register", upload: AcquisitionUpload, reason: str
) -> None:
    """Say that an acquisition was aborted, and why."""
    key = upload.acquisition_id
    # Else `complete` makes it, which was not reached.
    register.ensure_acquisition(acquired_montage(upload))
    register.finish(
        key, status="aborted", error_message=reason, ended_at=upload.ended_at
    )


def acquired_montage(upload: AcquisitionUpload) -> AcquiredMontage:
    """The acquisition in the words of the register."""
    instrument = upload.instrument
    known: dict[str, Any] = {
        "specimen_id": upload.specimen_id,
        "magnification": instrument.magnification,
        "spot_size": instrument.spot_size,
        "exposure_us": instrument.exposure_us,
        "camera_bit_depth": instrument.camera_bit_depth or upload.bit_depth,
        "saved_bit_depth": upload.bit_depth,
        "pixel_nm": upload.pixel_nm,
        "overlap_px": upload.overlap_px,
    }
    return AcquiredMontage(
        acquisition_id=upload.acquisition_id,
        montage_id=upload.montage_id,
        kind="lens_correction" if upload.kind == "lens_correction" else "montage",
        section_id=upload.section_id,
        aperture_id=upload.aperture_id,
        vertices_nm=tuple((v["x"], v["y"]) for v in upload.roi.get("vertices", ())),
        replaces_acquisition_id=upload.replaces_acquisition_id,
        task_id=upload.task_id,
        tilt_deg=upload.tilt_angle_deg,
        microscope=instrument.microscope,
        rotation_rad=upload.rotation_rad,
        aperture_centroid_nm=(
            upload.aperture_centroid_x_nm,
            upload.aperture_centroid_y_nm,
        ),
        camera_model=instrument.camera_model,
        camera_serial=instrument.camera_serial,
        tile_size=upload.tile_size,
        started_at=upload.started_at,
        ended_at=upload.ended_at,
        # What is not known is left to the register's defaults.
        **{name: value for name, value in known.items() if value is not None},
    )


def acquired_tile(tile: UploadedTile) -> AcquiredTile:
    """One tile in the words of the register."""
    statistics = tile.statistics
    measured: dict[str, float] = {}
    if statistics is not None:
        measured = {
            # As messages have it: the register turns it to the sense of TEM DB.
            "focus": inverted_focus(statistics.focus_score),
            "minimum": statistics.minimum,
            "maximum": statistics.maximum,
            "mean": statistics.mean,
            "std": statistics.std,
        }
    return AcquiredTile(
        tile_id=tile.tile_id,
        raster_index=tile.raster_index,
        row=tile.row,
        column=tile.column,
        stage_x_nm=tile.stage_x_nm,
        stage_y_nm=tile.stage_y_nm,
        uri=tile.uri,
        matches=tuple(_matched(match) for match in tile.matches),
        **measured,
    )


def _matched(match: NeighbourMatch) -> MatchedNeighbour:
    return MatchedNeighbour(
        row=match.row,
        column=match.column,
        position=match.position,
        dx_px=match.dx_px,
        dy_px=match.dy_px,
        dx_sd_px=match.dx_std_px,
        dy_sd_px=match.dy_std_px,
        distance_px=match.distance_px,
        rotation_rad=match.rotation_rad,
        good_matches=len(match.tile_points),
        p_y=tuple(y for y, _ in match.tile_points),
        p_x=tuple(x for _, x in match.tile_points),
        q_y=tuple(y for y, _ in match.neighbour_points),
        q_x=tuple(x for _, x in match.neighbour_points),
    )
