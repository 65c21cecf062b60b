"""`em-platform catalog`: list, search, check and export its records."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from em_platform.cli.catalog_output import print_findings, print_records, print_table
from em_platform.config import load_settings
from em_platform.errors import ConfigError, RecordError
from em_platform.model.sentences import counted
from em_platform.storage import Store, layout, store_of
from em_platform.storage.guard import mark_of, write_file

_PATHS = click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.group()
def command() -> None:
    """List, search, check and export the records of all datasets.

    Without PATH, a command looks at the records of the store that the settings name;
    with PATHs at those of files, folders, or other catalogs.
    """


@command.command("list")
@_PATHS
@_JSON
def list_records(paths: tuple[Path, ...], as_json: bool) -> None:
    """List all datasets; status 1 where a file of records cannot be read."""
    # Loaded by the command that needs it: the group's help stays quick.
    from em_platform.catalog.search import select

    found = _found(paths)
    print_records(select(found, ""), as_json=as_json)
    _end_with_unread(found)


@command.command()
@click.argument("name")
def show(name: str) -> None:
    """Show one record in full: NAME is its key, SOURCE/KEY, source_id, id or alias."""
    from em_platform.catalog.search import select

    wanted = name.rpartition("/")
    for each in select(_found(()), ""):
        record = each.content
        names = (record.get("key"), record.get("source_id"), record.get("id"))
        if wanted[0] in ("", record.get("source")) and (
            wanted[2] in names or wanted[2] in record.get("aliases", ())
        ):
            click.echo(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False))
            return
    raise ConfigError(
        f"catalog: no record of {name!r}, a key, source_id or alias was expected; "
        "`em-platform catalog list` names them all"
    )


@command.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also where the dataset is complete.")
def remove(name: str, force: bool) -> None:
    """Remove the record of a failed item: NAME is its key, or SOURCE/KEY.

    Voxels and fetched files stay. Take the item off ingest.SOURCE.items, too: else the
    next ingest makes the record again.
    """
    from em_platform.catalog.record_files import remove_record

    source, _, key = name.rpartition("/")
    store = _store()
    named = [
        each
        for each in store.names(layout.RECORDS)
        if source in ("", each) and store.exists(layout.record(each, key))
    ]
    if len(named) != 1:
        found = f"{len(named)} records ({', '.join(named)})" if named else "no record"
        raise ConfigError(
            f"catalog: {found} of {name!r}, the key of one was expected; give it as "
            "SOURCE/KEY, as `em-platform catalog list` names it"
        )
    remove_record(store, named[0], key, of_any_status=force)
    click.echo(f"removed the record of {named[0]}/{key}")


# A term may begin with a dash; click would take it for an option.
@command.command(context_settings={"ignore_unknown_options": True})
@click.argument("query", nargs=-1, required=True)
@click.option(
    "--in",
    "paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A file, folder or catalog instead of the store; may be repeated.",
)
@_JSON
def search(query: tuple[str, ...], paths: tuple[Path, ...], as_json: bool) -> None:
    """Find datasets by any field, such as 'modality=FIB-SEM voxel<10 organism~mouse'.

    All terms must hold. A term is FIELD OPERATOR VALUE without blanks, or a word that
    stands anywhere; a leading - negates it. Operators: = != ~ (contains) !~ < <= >
    >=. FIELD is a dotted path or its end: metadata.core.organism, organism; short names
    are voxel, shape, type, title, size, url, volume. Numbers take units (size>1GB,
    voxel<0.1um); of a list all numbers must fit, voxel.z is one axis. VALUE may be
    "two words", one|other, or * for any. Status 1 where a file of records cannot be
    read.
    """
    from em_platform.catalog.search import select, unmet

    found, asked = _found(paths), " ".join(query)
    print_records(select(found, asked), as_json=as_json)
    # On stderr, so that a pipe gets records only.
    for term in unmet(select(found, ""), asked):
        click.echo(f"no record has {term}", err=True)
    _end_with_unread(found)


@command.command()
@_PATHS
@click.option("--warnings", is_flag=True, help="Show warnings, too.")
@click.option(
    "--deep",
    is_flag=True,
    help="Also read every image back and compare it with its manifest.",
)
@_JSON
def validate(
    paths: tuple[Path, ...], warnings: bool, deep: bool, as_json: bool
) -> None:
    """Check every record and list all errors; status 1 where there are any.

    Nothing is written; `consolidate` writes a report. With --deep a volume or mosaic of
    which a file was lost or changed is an error, too.
    """
    from em_platform.catalog.consolidate import judge_all

    if paths and deep:
        raise ConfigError(
            "catalog validate: --deep reads the images of the store, PATHs of other "
            "records were named; leave one of them out"
        )
    store = None if paths else _store()
    judged = judge_all(_found(paths), store=store, deep=deep)
    wrong = [each for each in judged if not each.is_valid]
    if as_json:
        rows = [
            {
                "file": each.found.place,
                "valid": each.is_valid,
                "errors": list(each.findings.errors),
                "warnings": list(each.findings.warnings),
            }
            for each in judged
        ]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        print_findings(judged, warnings=warnings)
        click.echo(f"{len(judged) - len(wrong)} of {len(judged)} records are valid")
    sys.exit(1 if wrong else 0)


@command.command()
@_PATHS
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of catalog and reports; needed with PATHs.",
)
def consolidate(paths: tuple[Path, ...], target: Path | None) -> None:
    """Write one catalog of all records, and a report as JSON, CSV and a page.

    Status 1 where a record is not valid, unless catalog.strict is off.
    """
    from em_platform.catalog.consolidate import consolidate as consolidated
    from em_platform.storage import open_store

    if paths and target is None:
        raise ConfigError(
            "catalog consolidate: records of other places were named, a folder for "
            "their catalog was expected; add --to FOLDER"
        )
    made = consolidated(
        _store() if target is None else open_store(str(target)),
        load_settings().catalog,
        found=_found(paths) if target is not None else None,
        folder=layout.CATALOG if target is None else "",
    )
    summary = made.catalog["summary"]
    click.echo(
        f"{counted(summary['records'], 'record')}, {made.invalid} with errors, "
        f"{counted(summary['duplicates'], 'duplicate')}, "
        f"{summary['superseded']} superseded"
    )
    for url in made.urls:
        click.echo(f"wrote {url}")
    sys.exit(0 if made.is_good else 1)


@command.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--write", is_flag=True, help="Change the files; else only list the changes."
)
def migrate(paths: tuple[Path, ...], write: bool) -> None:
    """Bring records of versions 1 and 2 in FOLDERs and FILEs to version 3.

    No key is lost: what has no place is kept below additional_metadata.undeclared. A
    second time changes nothing. Status 1 where a file holds no record.
    """
    from em_platform.catalog.migrate import migrated_files, write_migrated

    changed = failed = 0
    for done in migrated_files(paths):
        if write:
            write_migrated(done)
        changed += done.is_changed
        failed += bool(done.trouble)
        for remark in (done.trouble,) if done.trouble else done.remarks:
            click.echo(f"{done.path}: {remark}")
    word = "changed" if write else "would change"
    click.echo(
        f"{counted(changed, 'record')} {word}, {counted(failed, 'file')} without one"
    )
    sys.exit(1 if failed else 0)


@command.command()
@_PATHS
@_JSON
def duplicates(paths: tuple[Path, ...], as_json: bool) -> None:
    """List datasets with the same voxels, the same file, or the same name."""
    from em_platform.catalog.repository import find_duplicates, latest

    # A file that holds no record has nothing to compare.
    found = [each for each in _found(paths) if isinstance(each.content, dict)]
    groups = find_duplicates(latest(found)[0])
    if as_json:
        rows = [{"by": g.by, "value": g.value, "records": g.places} for g in groups]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    print_table(
        ("same", "value", "records"),
        [(g.by, g.value[:16], " ".join(g.places)) for g in groups],
    )
    # On stderr, so that a pipe gets the table only.
    click.echo(counted(len(groups), "duplicate"), err=True)


@command.command()
@click.option("--strict", is_flag=True, help="Refuse undeclared keys.")
@click.argument(
    "target", required=False, type=click.Path(path_type=Path, dir_okay=False)
)
def schema(target: Path | None, strict: bool) -> None:
    """Print the JSON Schema (draft 2020-12) of a record, or write it to TARGET."""
    from em_platform.catalog.record_files import json_bytes
    from em_platform.catalog.validate import published_schema, strict_schema

    kind = "record schema"
    found = strict_schema() if strict else published_schema()
    # By the mark a later call knows the file as ours, and may replace it.
    content = json_bytes({"$comment": mark_of(kind).decode(), **found})
    if target is None:
        click.echo(content.decode(), nl=False)
    else:
        write_file(target.absolute(), content, kind)
        click.echo(f"wrote {target}")


@command.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--format",
    "form",
    type=click.Choice(["ro-crate"]),
    default="ro-crate",
    show_default=True,
    help="Form of the export.",
)
@click.option("--query", default="", help="Only records that fit, see `search`.")
@click.option(
    "--in",
    "paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A file, folder or catalog instead of the store; may be repeated.",
)
def export(folder: Path, form: str, query: str, paths: tuple[Path, ...]) -> None:
    """Write records as an RO-Crate into FOLDER: metadata with links to the data."""
    from em_platform.catalog.export import write_crate
    from em_platform.catalog.search import select

    found = select(_found(paths), query)
    if not found:
        raise RecordError(
            f"catalog export: no record fits {query!r}, at least one was expected; "
            "try the query with `em-platform catalog search`"
        )
    count = write_crate(found, folder)
    click.echo(f"wrote {form} of {counted(count, 'dataset')} to {folder}")


def _end_with_unread(found: list[Any]) -> None:
    """Name what holds no record on stderr; status 1 where there is any."""
    unread = [each for each in found if not isinstance(each.content, dict)]
    for each in unread:
        what = each.trouble or f"holds a {type(each.content).__name__}"
        click.echo(f"{each.place}: {what}", err=True)
    if unread:
        click.echo(
            f"{len(unread)} of {len(found)} records cannot be read and are not among "
            "these; see `em-platform catalog validate`, then make them again",
            err=True,
        )
        sys.exit(1)


def _store() -> Store:
    return store_of(load_settings())


def _found(paths: tuple[Path, ...]) -> list[Any]:
    from em_platform.catalog.repository import found_at, found_in

    return found_at(paths) if paths else found_in(_store())
