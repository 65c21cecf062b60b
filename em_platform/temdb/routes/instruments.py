"""Datasets, microscopes and lens corrections."""

from collections.abc import Sequence
from uuid import UUID

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session
from temdb.models import (
    DatasetCreate,
    DatasetResponse,
    DatasetUpdate,
    LensCorrectionCreate,
    LensCorrectionResponse,
    LensCorrectionUpdate,
    MicroscopeCreate,
    MicroscopeResponse,
    MicroscopeUpdate,
)

from em_platform.temdb.routes.answers import (
    Db,
    Limit,
    Skip,
    change,
    has,
    missing,
    one,
    page,
    refuse_taken,
    taken,
    uuid_of,
    values_of,
    wrong,
)
from em_platform.temdb.tables import Dataset, LensCorrection, Microscope, Specimen, now

router = APIRouter()

_CEILINGS = {"small": 10**8, "medium": 10**9, "large": 10**10}
"""Size class -> the most tiles of it; more are `xlarge`."""


@router.post("/datasets", response_model=DatasetResponse, status_code=201)
def create_dataset(told: DatasetCreate, db: Db) -> Dataset:
    """A new dataset; its size class follows from the estimate where it is not given."""
    size = told.size_class
    if size is None and told.estimated_tile_count is not None:
        size = _size_class(told.estimated_tile_count)
    if size is None:
        raise wrong(400, "give a dataset its size_class or estimated_tile_count")
    with db.writing() as session:
        if has(session, Dataset.name == told.name):
            raise taken("dataset", told.name)
        if told.specimen_id is not None:
            one(session, Specimen, told.specimen_id)
        _check_parent(session, told.parent_dataset_id)
        made = Dataset(**values_of(told, Dataset) | {"size_class": size})
        session.add(made)
    return made


@router.get("/datasets", response_model=list[DatasetResponse])
def list_datasets(
    db: Db,
    specimen_id: str | None = None,
    status: str | None = None,
    parent_dataset_id: UUID | None = None,
    skip: Skip = 0,
    limit: Limit = 50,
) -> Sequence[Dataset]:
    """Datasets, the oldest first."""
    with db.reading() as session:
        return page(
            session,
            select(Dataset).order_by(Dataset.dataset_id),
            skip=skip,
            limit=limit,
            wanted=[
                (Dataset.specimen_id, specimen_id),
                (Dataset.status, status),
                (Dataset.parent_dataset_id, parent_dataset_id),
            ],
        )


@router.get("/datasets/by-name/{name}", response_model=DatasetResponse)
def get_dataset_by_name(name: str, db: Db) -> Dataset:
    """One dataset by its name."""
    with db.reading() as session:
        query = select(Dataset).where(Dataset.name == name)
        found = session.scalars(query).one_or_none()
    if found is None:
        raise missing("dataset", name)
    return found


@router.get("/datasets/{dataset_id}", response_model=DatasetResponse)
def get_dataset(dataset_id: str, db: Db) -> Dataset:
    """One dataset."""
    with db.reading() as session:
        return one(session, Dataset, uuid_of("dataset", dataset_id))


@router.get("/datasets/{dataset_id}/children", response_model=list[DatasetResponse])
def list_children(dataset_id: str, db: Db) -> Sequence[Dataset]:
    """The datasets that are parts of this one."""
    with db.reading() as session:
        parent = one(session, Dataset, uuid_of("dataset", dataset_id))
        query = select(Dataset).where(Dataset.parent_dataset_id == parent.dataset_id)
        return session.scalars(query.order_by(Dataset.dataset_id)).all()


@router.patch("/datasets/{dataset_id}", response_model=DatasetResponse)
def update_dataset(dataset_id: str, told: DatasetUpdate, db: Db) -> Dataset:
    """A dataset with some fields changed; it notes when it was collected, archived."""
    with db.writing() as session:
        found = one(session, Dataset, uuid_of("dataset", dataset_id))
        change(found, told)
        if found.status == "collected":
            found.collected_at = found.collected_at or now()
        elif found.status == "archived":
            found.archived_at = found.archived_at or now()
    return found


@router.post("/microscopes", response_model=MicroscopeResponse, status_code=201)
def create_microscope(told: MicroscopeCreate, db: Db) -> Microscope:
    """A new microscope."""
    with db.writing() as session:
        if has(session, Microscope.label == told.label):
            raise taken("microscope", told.label)
        if told.microscope_id is not None:
            refuse_taken(session, Microscope, told.microscope_id)
        made = Microscope(**values_of(told, Microscope))
        session.add(made)
    return made


@router.get("/microscopes", response_model=list[MicroscopeResponse])
def list_microscopes(db: Db, skip: Skip = 0, limit: Limit = 50) -> Sequence[Microscope]:
    """Microscopes by their labels."""
    with db.reading() as session:
        query = select(Microscope).order_by(Microscope.label)
        return page(session, query, skip=skip, limit=limit)


@router.get("/microscopes/{id_or_label}", response_model=MicroscopeResponse)
def get_microscope(id_or_label: str, db: Db) -> Microscope:
    """One microscope by its id or label."""
    with db.reading() as session:
        query = select(Microscope).where(Microscope.label == id_or_label)
        found = session.scalars(query).one_or_none()
        if found is not None:
            return found
        return one(session, Microscope, uuid_of("microscope", id_or_label))


@router.patch("/microscopes/{microscope_id}", response_model=MicroscopeResponse)
def update_microscope(microscope_id: str, told: MicroscopeUpdate, db: Db) -> Microscope:
    """A microscope with some fields changed."""
    with db.writing() as session:
        found = one(session, Microscope, uuid_of("microscope", microscope_id))
        change(found, told)
    return found


@router.post(
    "/lens-corrections", response_model=LensCorrectionResponse, status_code=201
)
def create_lens_correction(told: LensCorrectionCreate, db: Db) -> LensCorrection:
    """A new lens correction of a microscope at a magnification."""
    with db.writing() as session:
        one(session, Microscope, told.microscope_id)
        if told.lc_id is not None:
            refuse_taken(session, LensCorrection, told.lc_id)
        made = LensCorrection(**values_of(told, LensCorrection))
        session.add(made)
    return made


@router.get("/lens-corrections", response_model=list[LensCorrectionResponse])
def list_lens_corrections(
    db: Db,
    microscope_id: UUID | None = None,
    magnification: int | None = None,
    skip: Skip = 0,
    limit: Limit = 50,
) -> Sequence[LensCorrection]:
    """Lens corrections, the newest first."""
    newest = LensCorrection.started_at.desc(), LensCorrection.lc_id.desc()
    with db.reading() as session:
        return page(
            session,
            select(LensCorrection).order_by(*newest),
            skip=skip,
            limit=limit,
            wanted=[
                (LensCorrection.microscope_id, microscope_id),
                (LensCorrection.magnification, magnification),
            ],
        )


@router.get("/lens-corrections/current", response_model=LensCorrectionResponse)
def get_current_lens_correction(
    microscope_id: UUID, magnification: int, db: Db
) -> LensCorrection:
    """The newest lens correction of a microscope at a magnification."""
    found = list_lens_corrections(
        db, microscope_id=microscope_id, magnification=magnification, limit=1
    )
    if not found:
        raise missing("lens correction of", f"{microscope_id} at {magnification} x")
    return found[0]


@router.get("/lens-corrections/{lc_id}", response_model=LensCorrectionResponse)
def get_lens_correction(lc_id: str, db: Db) -> LensCorrection:
    """One lens correction."""
    with db.reading() as session:
        return one(session, LensCorrection, uuid_of("lens correction", lc_id))


@router.patch("/lens-corrections/{lc_id}", response_model=LensCorrectionResponse)
def update_lens_correction(
    lc_id: str, told: LensCorrectionUpdate, db: Db
) -> LensCorrection:
    """A lens correction with what its solve has made."""
    with db.writing() as session:
        found = one(session, LensCorrection, uuid_of("lens correction", lc_id))
        change(found, told)
    return found


def _size_class(tiles: int) -> str:
    if tiles < 0:
        raise wrong(422, f"estimated_tile_count is {tiles}; give 0 or more")
    return next((name for name, most in _CEILINGS.items() if tiles <= most), "xlarge")


def _check_parent(session: Session, parent_id: UUID | None) -> None:
    if parent_id is None:
        return
    parent = one(session, Dataset, parent_id)
    if parent.parent_dataset_id is not None:
        raise wrong(
            400,
            f"dataset {parent_id} is itself a part of another; nesting is one level "
            "deep only",
        )
