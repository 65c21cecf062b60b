"""Routes that all entities have, made from a description of each entity.

An `Entity` gets create, get, update and delete, and its lists by page. What differs is
a function in the description; a route that is like no other is written by hand beside
it. Each made route has a signature of its own, from which FastAPI reads the parameters
and writes the OpenAPI page as for any function.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from typing import Any, TypeAlias

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select, Uuid, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from em_platform.temdb.columns import Base
from em_platform.temdb.database import Database
from em_platform.temdb.routes.rows import (
    KEYS,
    Db,
    Limit,
    Skip,
    Values,
    change,
    has,
    in_use,
    one,
    refuse_taken,
    uuid_of,
    values_of,
    wrong,
)

Condition: TypeAlias = Callable[[Any], ColumnElement[bool]]
Filter: TypeAlias = InstrumentedAttribute[Any] | tuple[type, Condition]
"""A column that must equal the parameter, or the parameter's type and a condition."""

Find: TypeAlias = Callable[..., Any]
"""From a session and the path's parameters by name to the row; 404 without one."""

Show: TypeAlias = Callable[[Session, Sequence[Any]], Sequence[Any]]

_IN_BRACES = re.compile(r"{(\w+)}")


@dataclass(frozen=True, slots=True)
class Listing:
    """One list of an entity's rows; a filter that stands in the path is no option.

    `within` finds what the rows belong to: 404 where that is not there. `order`, `tag`:
    the entity's own where they are not given.
    """

    name: str
    path: str
    text: str
    filters: Mapping[str, Filter] = field(default_factory=dict)
    within: Find | None = None
    order: Sequence[Any] = ()
    tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One table's routes: `collection` creates, `item` gets, updates and deletes.

    `values` gives the columns of a new row (409 where it is there); `changed` writes an
    update into a row; `used_by` names the rows that forbid to delete one, and which of
    their columns have its value. `get_item` and `get` stand where one row is got by
    another path than it is updated. `shown` makes the answers of rows.
    """

    tag: str | None = None
    row: type[Base]
    answer: type[BaseModel]
    collection: str
    item: str
    new: type[BaseModel]
    update: type[BaseModel] | None = None
    values: Callable[[Session, Any], Values] | None = None
    changed: Callable[[Session, Any, Any], None] = lambda _, row, update: change(
        row, update
    )
    used_by: Mapping[str, Mapping[str, InstrumentedAttribute[Any]]] | None = None
    find: Find | None = None
    get_item: str | None = None
    get: Find | None = None
    shown: Show = field(default=lambda _, rows: rows)
    has_batch: bool = False
    order: Sequence[Any] = ()
    page_size: int = 100
    lists: Sequence[Listing] = ()

    @property
    def noun(self) -> str:
        return KEYS[self.row][0]

    def found(self, session: Session, **path: str) -> Any:
        """The row that a path names."""
        if self.find is not None:
            return self.find(session, **path)
        # The last name in a path is the entity's; those before are its parents'.
        name = path[_IN_BRACES.findall(self.item)[-1]]
        # A text that is no UUID is 404; SQLAlchemy's `Uuid` would fail on it.
        is_uuid = isinstance(KEYS[self.row][1].type, Uuid)
        return one(session, self.row, uuid_of(self.noun, name) if is_uuid else name)

    def created(self, session: Session, request: Any, **more: Any) -> Any:
        """A new row of what a request asks for."""
        if self.values is not None:
            values = self.values(session, request)
        else:
            key = KEYS[self.row][1].key
            if getattr(request, key) is not None:
                refuse_taken(session, self.row, getattr(request, key))
            values = values_of(request, self.row)
        made = self.row(**values | more)
        session.add(made)
        # Now: the answer shows the number, and a batch must see its own rows.
        session.flush()
        return made


def add_entity(router: APIRouter, entity: Entity) -> None:
    """The routes of one entity."""
    made = _Made(router, entity)
    for listing in entity.lists:
        made.add_list(listing)
    made.add_create()
    made.add_get()
    if entity.update is not None:
        made.add_update(entity.update)
    if entity.used_by is not None:
        made.add_delete(entity.used_by)


class _Made:
    """The functions of one entity's routes."""

    def __init__(self, router: APIRouter, entity: Entity) -> None:
        self._router = router
        self._entity = entity
        # `CuttingSession` becomes `cutting_session`: FastAPI names operations so.
        self._name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", entity.row.__name__).lower()
        self._item = _in_path(entity.item)

    def add_list(self, listing: Listing) -> None:
        entity, path = self._entity, _in_path(listing.path)

        def rows(*, db: Database, skip: int, limit: int, **given: Any) -> Any:
            with db.reading() as session:
                if listing.within is not None:
                    listing.within(session, **{name: given[name] for name in path})
                query = filtered(select(entity.row), listing.filters, given)
                query = query.order_by(*(listing.order or entity.order))
                found = session.scalars(query.offset(skip).limit(limit)).all()
                # Within the session: to be shown, a row may need others.
                return entity.shown(session, found)

        params = path | _optional(listing.filters, without=path)
        params |= {"skip": (Skip, 0), "limit": (Limit, entity.page_size)}
        _sign(rows, listing.name, listing.text, params)
        self._add(rows, "GET", listing.path, is_list=True, tag=listing.tag)

    def add_create(self) -> None:
        entity = self._entity

        def create(*, db: Database, new: Any) -> Any:
            with db.writing() as session:
                return entity.shown(session, [entity.created(session, new)])[0]

        def create_batch(*, db: Database, new: Sequence[Any]) -> Any:
            if not new:
                raise wrong(
                    400, f"the list of {entity.noun}s is empty; give at least one"
                )
            with db.writing() as session:
                made = [entity.created(session, each) for each in new]
                return entity.shown(session, made)

        place = entity.collection
        text = f"A new {entity.noun}."
        _sign(create, f"create_{self._name}", text, {"new": entity.new})
        self._add(create, "POST", place, status=201)
        if entity.has_batch:
            text = f"Many new {entity.noun}s, all or none."
            many = {"new": list[entity.new]}  # type: ignore[name-defined]
            _sign(create_batch, f"create_{self._name}s", text, many)
            self._add(create_batch, "POST", f"{place}/batch", status=201, is_list=True)

    def add_get(self) -> None:
        entity = self._entity
        path = entity.get_item or entity.item

        def get(*, db: Database, **names: str) -> Any:
            with db.reading() as session:
                row = (entity.get or entity.found)(session, **names)
                return entity.shown(session, [row])[0]

        _sign(get, f"get_{self._name}", f"One {entity.noun}.", _in_path(path))
        self._add(get, "GET", path)

    def add_update(self, model: type[BaseModel]) -> None:
        entity = self._entity

        def update(*, db: Database, update: Any, **names: str) -> Any:
            with db.writing() as session:
                row = entity.found(session, **names)
                entity.changed(session, row, update)
                return entity.shown(session, [row])[0]

        text = f"One {entity.noun} with some fields changed."
        _sign(update, f"update_{self._name}", text, self._item | {"update": model})
        self._add(update, "PATCH", entity.item)

    def add_delete(
        self, used_by: Mapping[str, Mapping[str, InstrumentedAttribute[Any]]]
    ) -> None:
        entity, last = self._entity, list(self._item)[-1]

        def delete(*, db: Database, **names: str) -> None:
            with db.writing() as session:
                row = entity.found(session, **names)
                # Looked up: a foreign key refuses without saying what refers to it.
                for users, columns in used_by.items():
                    same = [col == getattr(row, own) for own, col in columns.items()]
                    if has(session, *same):
                        raise in_use(entity.noun, names[last], users)
                session.delete(row)

        text = f"Remove one {entity.noun} without {' or '.join(used_by)}."
        _sign(delete, f"delete_{self._name}", text, self._item)
        self._add(delete, "DELETE", entity.item, status=204)

    def _add(
        self,
        act: Callable[..., Any],
        method: str,
        path: str,
        *,
        status: int | None = None,
        is_list: bool = False,
        tag: str | None = None,
    ) -> None:
        answer: Any = self._entity.answer if method != "DELETE" else None
        tag = tag or self._entity.tag
        self._router.add_api_route(
            path,
            act,
            methods=[method],
            status_code=status,
            response_model=list[answer] if is_list else answer,
            tags=[tag] if tag else None,
        )


def filtered(
    query: Select[Any], filters: Mapping[str, Filter], given: Values
) -> Select[Any]:
    """The query for rows that are as each given parameter asks; None asks nothing."""
    for name, wanted in filters.items():
        value = given[name]
        if value is None:
            continue
        if isinstance(wanted, tuple):
            query = query.where(wanted[1](value))
        else:
            query = query.where(wanted == value)
    return query


def _optional(filters: Mapping[str, Filter], without: Values) -> Values:
    """The filters as parameters that may be left out."""
    kinds = {
        name: wanted[0] if isinstance(wanted, tuple) else wanted.type.python_type
        for name, wanted in filters.items()
        if name not in without
    }
    return {name: (kind | None, None) for name, kind in kinds.items()}


def _in_path(path: str) -> Values:
    return dict.fromkeys(_IN_BRACES.findall(path), str)


def _sign(act: Callable[..., Any], name: str, text: str, params: Values) -> None:
    """Give a made function the name, text and parameters that FastAPI reads."""
    empty, only_named = Parameter.empty, Parameter.KEYWORD_ONLY
    # FastAPI takes a function's `__signature__` for its real one.
    signature = [Parameter("db", only_named, annotation=Db)]
    for key, given in params.items():
        kind, default = given if isinstance(given, tuple) else (given, empty)
        signature.append(Parameter(key, only_named, annotation=kind, default=default))
    act.__name__, act.__doc__ = name, text
    act.__signature__ = Signature(signature)  # type: ignore[attr-defined]
