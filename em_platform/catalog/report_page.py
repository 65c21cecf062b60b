"""The validation report as one page that needs no network: sort, filter, follow."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from em_platform.catalog.record_files import at
from em_platform.catalog.summary import Judged, completeness, review_reasons
from em_platform.model.dataset import Status, voxel_size_zyx

HEADINGS = (
    ("status", ""),
    ("middle sections", ""),
    ("source", ""),
    ("dataset", ""),
    ("modality", ""),
    ("shape (z y x)", "numbers"),
    ("voxel (nm)", "numbers"),
    ("type", ""),
    ("size", "numbers"),
    ("fields known", "numbers"),
    ("errors", "numbers"),
    ("warnings", "numbers"),
    ("updated", ""),
    ("volume", ""),
)
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_LINKED = ("http://", "https://", "file://")
_PICTURES = (*_LINKED, "data:image/png;base64,", "data:image/jpeg;base64,")
_MOST_DUPLICATES = 200


def report_html(
    catalog: Mapping[str, Any], judged: Sequence[Judged], *, root: str, folder: str
) -> bytes:
    """The page; what lies below `root` is linked from `folder`, relative to it."""
    page = files("em_platform.catalog").joinpath("report_page.html").read_text("utf-8")
    place = Place(root=root, folder=folder)
    generated = catalog["metadata"]["generated_at"] or "no record yet"
    parts = {
        "title": escape(str(generated)),
        "subtitle": escape(f"State of the newest record: {generated}"),
        "figures": _figures(catalog, judged),
        "duplicates": _duplicates(catalog["duplicates"]),
        "headings": "".join(
            f'<th scope="col"{" data-numbers" if kind else ""}>'
            f'<button type="button">{escape(name)}</button></th>'
            for name, kind in HEADINGS
        ),
        "rows": "\n".join(_row(each, place) for each in judged),
    }
    # One pass: what a record says may look like the name of a part.
    pieces = page.split("[[")
    made = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("]]")
        made += (parts[name], rest)
    return "".join(made).encode()


class Place:
    """Where the page lies, and how it refers to what else lies in the store."""

    def __init__(self, *, root: str, folder: str) -> None:
        self._root = f"{root.rstrip('/')}/"
        self._up = "../" * len([part for part in folder.split("/") if part])

    def link(self, url: str, allowed: Sequence[str] = _LINKED) -> str | None:
        """What to write into a link or picture; None for what no browser opens."""
        if url.startswith(self._root):
            return f"{self._up}{url.removeprefix(self._root)}"
        return url if url.startswith(tuple(allowed)) else None


def _row(judged: Judged, place: Place) -> str:
    record, findings = judged.record, judged.findings
    core = at(record, "metadata", "core") or {}
    shape, voxel = at(core, "volume_shape"), voxel_size_zyx(at(core, "voxel_size_nm"))
    size = at(record, "metadata", "technical", "file_size_bytes")
    status = str(record.get("status") or "damaged")
    known = status if status in {*Status, "damaged"} else "pending"
    done = completeness(record)
    updated = _text(record.get("updated_at") or record.get("created_at"))
    cells = (
        _status(status, known, review_reasons(record)),
        _preview(at(record, "files", "preview"), place, judged),
        _cell(judged.source),
        _named(judged, core),
        _cell(_text(at(core, "modality"))),
        _number(_product(shape), _joined(shape)),
        _number(_product(voxel), _joined(voxel)),
        _cell(_text(at(core, "data_type"))),
        _number(size, _bytes(size)),
        _number(done, f"{100 * done:.0f} %"),
        _found(findings.errors, "errors"),
        _found(findings.warnings, "warnings"),
        _cell(updated[:19].replace("T", " "), updated),
        _volume(at(record, "files", "volume"), place),
    )
    wrong = len(findings.errors) + len(review_reasons(record))
    return f'<tr data-errors="{wrong}">{"".join(cells)}</tr>'


def _named(judged: Judged, core: Any) -> str:
    record = judged.record
    name = _text(record.get("key") or record.get("source_id")) or judged.found.place
    title = _text(at(core, "dataset_title") or at(core, "description"))
    message = _text(at(record, "error", "message"))[:500]
    trouble = f'<br><span class="errors">{escape(message)}</span>' if message else ""
    return (
        f'<td class="name" data-value="{escape(name)}"><strong>{escape(name)}</strong>'
        f'<br>{escape(title[:300])}<br><code class="soft">'
        f"{escape(judged.found.place)}</code>{trouble}</td>"
    )


def _status(text: str, known: str, reasons: Sequence[str]) -> str:
    """The status; of a dataset that needs review with the sentences of what failed."""
    shown = f'<span class="status {known}">{escape(text)}</span>'
    if not reasons:
        return f"<td>{shown}</td>"
    items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    return (
        f'<td class="why" data-value="{escape(text)}">{shown}'
        f'<ul class="needs_review">{items}</ul></td>'
    )


def _found(sentences: Sequence[str], kind: str) -> str:
    if not sentences:
        return '<td class="number" data-value="0">0</td>'
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return (
        f'<td data-value="{len(sentences)}"><details><summary class="{kind}">'
        f"{len(sentences)}</summary><ul>{items}</ul></details></td>"
    )


def _volume(url: Any, place: Place) -> str:
    if not isinstance(url, str) or not url:
        return "<td></td>"
    link = place.link(url)
    if link is None:
        return f"<td><code>{escape(url)}</code></td>"
    name = url.rstrip("/").rpartition("/")[2]
    return f'<td><a href="{escape(link)}">{escape(name)}</a></td>'


def _preview(url: Any, place: Place, judged: Judged) -> str:
    link = place.link(url, _PICTURES) if isinstance(url, str) and url else None
    if link is None:
        return "<td></td>"
    of = _text(judged.record.get("key") or judged.record.get("source_id"))
    return (
        f'<td><img loading="lazy" src="{escape(link)}" '
        f'alt="middle sections of {escape(of)}"></td>'
    )


def _figures(catalog: Mapping[str, Any], judged: Sequence[Judged]) -> str:
    summary, checked = catalog["summary"], catalog["validation"]
    figures = [
        ("records", f"{summary['records']}"),
        ("valid and complete", f"{_share(judged):g} %"),
        ("with errors", f"{checked['invalid_files']}"),
        ("damaged files", f"{summary['parsing_errors']}"),
        ("data", _bytes(summary["data_volume_bytes"]["total"])),
        *((name, f"{count}") for name, count in summary["by_status"].items()),
    ]
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in figures
    )


def _share(judged: Sequence[Judged]) -> float:
    """Percent of the records that are valid and of a finished dataset.

    The record of a failed ingest keeps its schema, too, and is no good record.
    """
    good = sum(
        each.is_valid and each.record.get("status") == Status.COMPLETE
        for each in judged
    )
    return round(100 * good / len(judged), 2) if judged else 100.0


def _duplicates(duplicates: Sequence[Mapping[str, Any]]) -> str:
    if not duplicates:
        return ""
    items = "".join(
        f"<li>same {escape(each['by'])} <code>{escape(each['value'][:80])}</code>: "
        f"{escape(', '.join(each['records'][:20]))}</li>"
        for each in duplicates[:_MOST_DUPLICATES]
    )
    return (
        "<h2>Duplicates</h2><details><summary>groups of datasets that share what only "
        f"one should have: {len(duplicates)}</summary><ul>{items}</ul></details>"
    )


def _cell(text: str, value: str | None = None) -> str:
    attribute = "" if value is None else f' data-value="{escape(value)}"'
    return f"<td{attribute}>{escape(text)}</td>"


def _number(value: Any, text: str) -> str:
    number = value if isinstance(value, int | float) else -1
    return f'<td class="number" data-value="{number:.12g}">{escape(text)}</td>'


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _joined(values: Any) -> str:
    if not isinstance(values, list | tuple):
        return ""
    return " × ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def _product(values: Any) -> float | None:
    if not isinstance(values, list | tuple):
        return None
    product = 1.0
    for value in values:
        if not isinstance(value, int | float):
            return None
        product *= value
    return product


def _bytes(size: Any) -> str:
    if not isinstance(size, int | float):
        return ""
    step = 0
    while size >= 1000 and step < len(_UNITS) - 1:
        size, step = size / 1000, step + 1
    return f"{size:.3g} {_UNITS[step]}"
