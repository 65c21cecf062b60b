"""OMERO's web as IDR shows it: the JSON API, and what the web client asks besides."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from em_platform.model import Json, JsonObject
from em_platform.standins.messages import (
    Handler,
    Request,
    Response,
    Router,
    as_bytes,
    as_json,
    refuse_in_json,
)
from em_platform.standins.pixels import Pixels

# Every `@type` of the JSON API begins with it.
_SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06#"
_HEADERS = {"X-OMERO-ApiVersion": "0.2"}
# As IDR answers in `meta`: maxLimit 500, limit 200.
_MOST = 500
_USUAL = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image of the database; `voxel_nm` is z, y, x."""

    id: int
    name: str
    dataset: int
    pixels: Pixels
    voxel_nm: tuple[float, float, float]
    client_path: str
    channels: tuple[str, ...] = ("0",)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A project, or a dataset of the project `parent`."""

    id: int
    name: str
    description: str = ""
    parent: int = 0


Listed = TypeVar("Listed", Image, Container)


def refuse(status: int, words: str) -> Response:
    """An error as the JSON API words it."""
    return replace(refuse_in_json(status, words), headers=_HEADERS)


class _Absent(Exception):
    """What OMERO answers with 404 and its words."""


class Omero:
    """Answers for images that lie in datasets of projects."""

    def __init__(
        self,
        images: Iterable[Image],
        *,
        datasets: Iterable[Container],
        projects: Iterable[Container],
    ) -> None:
        self._images = {image.id: image for image in images}
        self._datasets = {dataset.id: dataset for dataset in datasets}
        self._projects = {project.id: project for project in projects}
        self._router = self._routes()

    def __call__(self, request: Request) -> Response:
        try:
            return self._router(request)
        except _Absent as error:
            return refuse(404, str(error))

    def _routes(self) -> Router:
        router = Router(refuse)
        m = "/api/v0/m"
        by_id = r"(?P<id>\d+)"
        for pattern, handler in (
            ("/api/?", self._versions),
            ("/api/v0/?", self._start),
            ("/api/v0/token/?", lambda _: as_json({"data": "standin" * 4})),
            (f"{m}/images/?", self._list_images),
            (f"{m}/images/{by_id}/?", self._one_image),
            (f"{m}/datasets/?", self._list_datasets),
            (f"{m}/(?P<kind>dataset|project)s/{by_id}/?", self._one_container),
            (f"{m}/datasets/{by_id}/images/?", self._list_images),
            (f"{m}/images/{by_id}/datasets/?", self._list_datasets),
            (f"{m}/datasets/{by_id}/projects/?", self._list_projects),
            (f"{m}/projects/?", self._list_projects),
            (f"{m}/projects/{by_id}/datasets/?", self._list_datasets),
            (
                # The older way opens a web session here before it asks for data.
                "/webclient/?",
                lambda _: as_bytes(b"<html></html>", media_type="text/html"),
            ),
            (f"/web(?:client|gateway)/imgData/{by_id}/?", self._image_page),
            (
                f"/web(?:client|gateway)/original_file_paths/{by_id}/?",
                self._original_paths,
            ),
            ("/webclient/api/annotations/?", self._annotations),
            (f"/webclient/render_image_download/{by_id}/?", self._rendered),
        ):
            router.add(pattern, _versioned(handler))
        return router

    def _versions(self, request: Request) -> Response:
        base = f"{_host(request)}/api/v0/"
        return as_json({"data": [{"version": "0", "url:base": base}]})

    def _start(self, request: Request) -> Response:
        base = f"{_host(request)}/api/v0/"
        names = ("projects", "datasets", "images")
        return as_json(
            {
                **{f"url:{name}": f"{base}m/{name}/" for name in names},
                "url:token": f"{base}token/",
                "url:servers": f"{base}servers/",
                "url:login": f"{base}login/",
                "url:save": f"{base}m/save/",
                "url:schema": _SCHEMA.removesuffix("#"),
            }
        )

    def _list_images(self, request: Request) -> Response:
        parent = request.params.get("id") or request.asked("dataset")
        found = [
            self._image(image, request)
            for image in self._images.values()
            if parent in ("", str(image.dataset))
        ]
        return _page(found, request)

    def _one_image(self, request: Request) -> Response:
        image = _of(self._images, "Image", request)
        # Only of a single image: IDR's lists leave them out.
        channels: list[JsonObject] = [
            {
                "@id": image.id * 10 + place,
                "@type": f"{_SCHEMA}Channel",
                "Name": name,
                "Color": -1,
                "SamplesPerPixel": 1,
                "omero:LogicalChannelId": image.id * 10 + place,
                "omero:details": _details(),
            }
            for place, name in enumerate(image.channels)
        ]
        answer = self._image(image, request, Channels=channels)
        return as_json({"data": answer})

    def _list_datasets(self, request: Request) -> Response:
        # One handler for three paths: the id is a project's, or an image's.
        images = "/images/" in request.path
        given = request.params.get("id", "")
        project = request.asked("project") or ("" if images else given)
        image = request.asked("image") or (given if images else "")
        holder = self._images.get(int(image)) if image.isdigit() else None
        found = [
            self._container(dataset, "Dataset", request)
            for dataset in self._datasets.values()
            if project in ("", str(dataset.parent))
            and (not image or (holder is not None and holder.dataset == dataset.id))
        ]
        return _page(found, request)

    def _list_projects(self, request: Request) -> Response:
        dataset = request.params.get("id") or request.asked("dataset")
        held = self._datasets.get(int(dataset)) if dataset.isdigit() else None
        found = [
            self._container(project, "Project", request)
            for project in self._projects.values()
            if not dataset or (held is not None and held.parent == project.id)
        ]
        return _page(found, request)

    def _one_container(self, request: Request) -> Response:
        kind = request.params["kind"].capitalize()
        listed = self._datasets if kind == "Dataset" else self._projects
        found = _of(listed, kind, request)
        return as_json({"data": self._container(found, kind, request)})

    def _image(self, image: Image, request: Request, **more: Json) -> JsonObject:
        """`more` is added to its pixels."""
        z, y, x = image.pixels.shape
        edges_um: JsonObject = {
            f"PhysicalSize{axis}": {
                "Symbol": "µm",
                "Value": round(edge / 1000, 6),
                "Unit": "MICROMETER",
                "@type": "TBD#LengthI",
            }
            for axis, edge in zip("ZYX", image.voxel_nm, strict=True)
        }
        # TBD stands in IDR's own answers.
        kind: JsonObject = {
            "@id": 4,
            "@type": "TBD#PixelsType",
            "value": image.pixels.dtype,
        }
        return {
            "@id": image.id,
            "@type": f"{_SCHEMA}Image",
            "Name": image.name,
            "omero:series": 0,
            "omero:details": _details(),
            "url:image": f"{_host(request)}/api/v0/m/images/{image.id}/",
            "Pixels": {
                "@id": image.id,
                "@type": f"{_SCHEMA}Pixels",
                **{"SizeX": x, "SizeY": y, "SizeZ": z},
                **{"SizeC": len(image.channels), "SizeT": 1},
                **edges_um,
                "SignificantBits": np.dtype(image.pixels.dtype).itemsize * 8,
                "Type": {**kind, "omero:details": _details()},
                "omero:sha1": "Pending...",
                "omero:details": _details(),
                **more,
            },
        }

    def _container(self, found: Container, kind: str, request: Request) -> JsonObject:
        place = f"{_host(request)}/api/v0/m/{kind.lower()}s/{found.id}/"
        children = "images" if kind == "Dataset" else "datasets"
        answer: dict[str, Json] = {
            "@id": found.id,
            "@type": f"{_SCHEMA}{kind}",
            "Name": found.name,
            "omero:details": _details(),
            f"url:{kind.lower()}": place,
            f"url:{children}": f"{place}{children}/",
        }
        # OMERO leaves out what is null.
        if found.description:
            answer["Description"] = found.description
        if request.asked("childCount") == "true":
            answer["omero:childCount"] = self._children(found, kind)
        return answer

    def _children(self, found: Container, kind: str) -> int:
        if kind == "Dataset":
            return sum(image.dataset == found.id for image in self._images.values())
        return sum(dataset.parent == found.id for dataset in self._datasets.values())

    def _image_page(self, request: Request) -> Response:
        image = _of(self._images, "Image", request)
        dataset = self._datasets[image.dataset]
        z, y, x = image.pixels.shape
        micron = [edge / 1000 for edge in image.voxel_nm]
        return as_json(
            {
                "id": image.id,
                "meta": {
                    "imageName": image.name,
                    "imageId": image.id,
                    "datasetName": dataset.name,
                    "datasetId": dataset.id,
                    "projectName": self._projects[dataset.parent].name,
                    "projectId": dataset.parent,
                    "pixelsType": image.pixels.dtype,
                },
                "size": {
                    **{"width": x, "height": y, "z": z, "t": 1},
                    "c": len(image.channels),
                },
                "pixel_size": dict(zip("zyx", micron, strict=True)),
                "tiles": False,
            }
        )

    def _original_paths(self, request: Request) -> Response:
        image = _of(self._images, "Image", request)
        # `repo` is OMERO's own copy, `client` the path from which it was imported.
        repo = f"demo_2/2020-07/20/{image.name}"
        return as_json({"repo": [repo], "client": [image.client_path]})

    def _annotations(self, request: Request) -> Response:
        image = request.asked("image")
        found = self._images.get(int(image)) if image.isdigit() else None
        pairs = [list(pair) for pair in found.annotations.items()] if found else []
        annotation = {
            "id": 1,
            "ns": "openmicroscopy.org/omero/bulk_annotations",
            "class": "MapAnnotationI",
            "values": pairs,
        }
        listed = [annotation] if pairs else []
        return as_json({"annotations": listed, "experimenters": []})

    def _rendered(self, request: Request) -> Response:
        """The middle plane stretched to 8 bits: a picture, not the data."""
        import imagecodecs

        image = _of(self._images, "Image", request)
        z, y, x = image.pixels.shape
        plane = image.pixels.read((z // 2, 0, 0), (1, y, x))[0].astype(np.float64)
        grey = (plane - plane.min()) / (np.ptp(plane) or 1.0) * 255
        picture = bytes(imagecodecs.png_encode(grey.astype(np.uint8)))
        return as_bytes(picture, media_type="image/png")


def _versioned(handler: Handler) -> Handler:
    """The answer with the version of the API, as every answer has it."""

    def answer(request: Request) -> Response:
        response = handler(request)
        return replace(response, headers={**_HEADERS, **response.headers})

    return answer


def _page(found: list[JsonObject], request: Request) -> Response:
    try:
        limit = min(_MOST, int(request.asked("limit", str(_USUAL))))
        offset = int(request.asked("offset", "0"))
    except ValueError as error:
        return refuse(400, str(error))
    meta = {
        "totalCount": len(found),
        "maxLimit": _MOST,
        "limit": limit,
        "offset": offset,
    }
    return as_json({"data": found[offset : offset + limit], "meta": meta})


def _of(listed: Mapping[int, Listed], kind: str, request: Request) -> Listed:
    found = listed.get(int(request.params["id"]))
    if found is None:
        raise _Absent(f"{kind} {request.params['id']} not found")
    return found


def _host(request: Request) -> str:
    return f"http://{request.headers['Host']}"


def _details() -> JsonObject:
    permissions: JsonObject = {
        "@type": "TBD#Permissions",
        "perm": "rwr---",
        "isWorldRead": False,
    }
    return {"@type": "TBD#Details", "permissions": permissions}
