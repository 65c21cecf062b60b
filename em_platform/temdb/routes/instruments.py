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

from em_platform.temdb.columns import now
from em_platform.temdb.routes.entities import Entity, Listing, add_entity
from em_platform.temdb.routes.rows import (
    Db,
    Values,
    change,
    has,
    missing,
    one,
    refuse_taken,
    taken,
    uuid_of,
    values_of,
    wrong,
)
from em_platform.temdb.tables import Dataset, LensCorrection, Microscope, Specimen

router = APIRouter()

# Upstream divides its table of tiles by the class; here it is only kept.
_CEILINGS = {"small": 10**8, "medium": 10**9, "large": 10**10}
"""Size class -> the most tiles of it; more are `xlarge`."""
# As the published client asks for, where its caller does not say.
_PAGE_SIZE = 50


def _dataset_values(session: Session, new: DatasetCreate) -> Values:
    """The size class follows from the estimate where it is not given."""
    size = new.size_class
    if size is None and new.estimated_tile_count is not None:
        size = _size_class(new.estimated_tile_count)
    if size is None:
        raise wrong(400, "give a dataset its size_class or estimated_tile_count")
    if has(session, Dataset.name == new.name):
        raise taken("dataset", new.name)
    if new.specimen_id is not None:
        one(session, Specimen, new.specimen_id)
    _check_parent(session, new.parent_dataset_id)
    return values_of(new, Dataset) | {"size_class": size}


def _size_class(tiles: int) -> str:
    if tiles < 0:
        raise wrong(422, f"estimated_tile_count is {tiles}; give 0 or more")
    return next((name for name, most in _CEILINGS.items() if tiles <= most), "xlarge")


def _check_parent(session: Session, parent_id: UUID | None) -> None:
    if parent_id is None:
        return
    parent = one(session, Dataset, parent_id)
    # Upstream's rule: "optional parent dataset (one level only)".
    if parent.parent_dataset_id is not None:
        raise wrong(
            400,
            f"dataset {parent_id} is itself a part of another; nesting is one level "
            "deep only",
        )


def _change_dataset(session: Session, found: Dataset, update: DatasetUpdate) -> None:
    """The first time it is collected or archived is kept."""
    change(found, update)
    if found.status == "collected":
        found.collected_at = found.collected_at or now()
    elif found.status == "archived":
        found.archived_at = found.archived_at or now()


def _microscope_values(session: Session, new: MicroscopeCreate) -> Values:
    if has(session, Microscope.label == new.label):
        raise taken("microscope", new.label)
    if new.microscope_id is not None:
        refuse_taken(session, Microscope, new.microscope_id)
    return values_of(new, Microscope)


def _find_microscope(session: Session, *, id_or_label: str) -> Microscope:
    # The label first: what is no UUID would be refused before it is looked for.
    query = select(Microscope).where(Microscope.label == id_or_label)
    found = session.scalars(query).one_or_none()
    if found is not None:
        return found
    return one(session, Microscope, uuid_of("microscope", id_or_label))


def _lens_values(session: Session, new: LensCorrectionCreate) -> Values:
    one(session, Microscope, new.microscope_id)
    if new.lc_id is not None:
        refuse_taken(session, LensCorrection, new.lc_id)
    return values_of(new, LensCorrection)


DATASET = Entity(
    row=Dataset,
    answer=DatasetResponse,
    collection="/datasets",
    item="/datasets/{dataset_id}",
    new=DatasetCreate,
    update=DatasetUpdate,
    values=_dataset_values,
    changed=_change_dataset,
    order=[Dataset.dataset_id],
    page_size=_PAGE_SIZE,
    lists=[
        Listing(
            "list_datasets",
            "/datasets",
            "Datasets, the oldest first.",
            {
                "specimen_id": Dataset.specimen_id,
                "status": Dataset.status,
                "parent_dataset_id": Dataset.parent_dataset_id,
            },
        )
    ],
)
MICROSCOPE = Entity(
    row=Microscope,
    answer=MicroscopeResponse,
    collection="/microscopes",
    item="/microscopes/{microscope_id}",
    get_item="/microscopes/{id_or_label}",
    new=MicroscopeCreate,
    update=MicroscopeUpdate,
    get=_find_microscope,
    values=_microscope_values,
    order=[Microscope.label],
    page_size=_PAGE_SIZE,
    lists=[Listing("list_microscopes", "/microscopes", "Microscopes by their labels.")],
)
LENS_CORRECTION = Entity(
    row=LensCorrection,
    answer=LensCorrectionResponse,
    collection="/lens-corrections",
    item="/lens-corrections/{lc_id}",
    new=LensCorrectionCreate,
    update=LensCorrectionUpdate,
    values=_lens_values,
    # Of two that began at once the one made later: UUIDs of version 7 grow.
    order=[LensCorrection.started_at.desc(), LensCorrection.lc_id.desc()],
    page_size=_PAGE_SIZE,
    lists=[
        Listing(
            "list_lens_corrections",
            "/lens-corrections",
            "Lens corrections, the newest first.",
            {
                "microscope_id": LensCorrection.microscope_id,
                "magnification": LensCorrection.magnification,
            },
        )
    ],
)


@router.get("/lens-corrections/current", response_model=LensCorrectionResponse)
def get_current_lens_correction(
    microscope_id: UUID, magnification: int, db: Db
) -> LensCorrection:
    """The newest lens correction of a microscope at a magnification."""
    query = select(LensCorrection).where(
        LensCorrection.microscope_id == microscope_id,
        LensCorrection.magnification == magnification,
    )
    with db.reading() as session:
        newest = query.order_by(*LENS_CORRECTION.order).limit(1)
        found = session.scalars(newest).one_or_none()
    if found is None:
        raise missing("lens correction of", f"{microscope_id} at {magnification} x")
    return found


@router.get("/datasets/by-name/{name}", response_model=DatasetResponse)
def get_dataset_by_name(name: str, db: Db) -> Dataset:
    """One dataset by its name."""
    with db.reading() as session:
        query = select(Dataset).where(Dataset.name == name)
        found = session.scalars(query).one_or_none()
    if found is None:
        raise missing("dataset", name)
    return found


@router.get("/datasets/{dataset_id}/children", response_model=list[DatasetResponse])
def list_children(dataset_id: str, db: Db) -> Sequence[Dataset]:
    """The datasets that are parts of this one."""
    with db.reading() as session:
        parent = one(session, Dataset, uuid_of("dataset", dataset_id))
        query = select(Dataset).where(Dataset.parent_dataset_id == parent.dataset_id)
        return session.scalars(query.order_by(Dataset.dataset_id)).all()


# Last: /lens-corrections/current is no lens correction's id.
for _entity in (DATASET, MICROSCOPE, LENS_CORRECTION):
    add_entity(router, _entity)
