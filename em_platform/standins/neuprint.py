"""A neuPrint server: what is known of a dataset, for those who show a token."""

import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em_platform.standins.messages import Request, Response, as_json
from em_platform.standins.part import Tree

# What the tests and the demo send; every other token is refused with 401.
TOKEN = "a-token-of-the-stand-in"
HEMIBRAIN = "hemibrain:v1.2.1"
_UUID = "31597f95a2cf4a3689e71d8d51b5b41e"
_LAST_MODIFIED = "2021-10-06 16:32:29"
_SUPER = ["AL(R)", "CX", "INP", "MB(R)", "OL(R)"]
_PRIMARY = ["AL(R)", "CA(R)", "EB", "FB", "ME(R)", "PB", "a'L(R)"]
_ALL = [*_PRIMARY, "CX", "INP", "MB(R)", "OL(R)", "a'1(R)"]


class Neuprint:
    """The handler of one neuPrint site.

    Without a `token` it is open to all. `version` None: the endpoint is not there, as
    after the move of the service to another platform.
    """

    def __init__(self, *, token: str = TOKEN, version: str | None = "1.7.7") -> None:
        self.token = token
        self.version = version
        self.datasets = {HEMIBRAIN: _dataset(), "manc:v1.0": _dataset()}

    def __call__(self, request: Request) -> Response:
        """Answer one request."""
        given = request.headers.get("Authorization") or ""
        # Before all else: without a token no question is answered.
        if self.token and given != f"Bearer {self.token}":
            words = "invalid or expired jwt" if given else "missing or malformed jwt"
            return refuse(401, words)
        answers: Mapping[tuple[str, str], Any] = {
            ("GET", "/api/dbmeta/datasets"): self.datasets,
            ("GET", "/api/dbmeta/database"): {
                "Location": "stand-in",
                "Description": "",
            },
            ("GET", "/api/dbmeta/instances"): {},
            ("GET", "/api/dbmeta/version"): {"Version": "0.5.0"},
            ("GET", "/api/serverinfo"): {"IsPublic": not self.token},
            ("GET", "/profile"): {
                "Email": "user@example.org",
                "AuthLevel": "readonly",
            },
            ("GET", "/token"): {"token": self.token},
            ("GET", "/api/available"): ["/api/custom/custom", "/api/dbmeta/datasets"],
        }
        if request.path == "/api/version" and self.version is not None:
            return as_json({"Version": self.version})
        if (request.method, request.path) in answers:
            return as_json(answers[request.method, request.path])
        if request.path == "/api/custom/custom" and request.method == "POST":
            return self._custom(request)
        return refuse(404, "Not Found")

    def _custom(self, request: Request) -> Response:
        """Answer the Cypher that neuprint-python sends; there is no database behind."""
        try:
            asked = request.json
            cypher, dataset = asked["cypher"], asked["dataset"]
        except (ValueError, KeyError, TypeError):
            return as_json(
                {"error": "request object not formatted correctly"}, status=400
            )
        if dataset not in self.datasets:
            return as_json({"error": f"no dataset {dataset}"}, status=400)
        meta = _meta(dataset)
        # By what they ask to be returned: no parser of Cypher is needed.
        by_return: dict[str, Callable[[], dict[str, Any]]] = {
            "as roiInfo": lambda: _table(
                meta=meta,
                roiInfo={name: {"pre": 1000, "post": 3000} for name in _ALL},
                roiHierarchy=_hierarchy(),
                neuroglancerInfo={},
                neuroglancerMeta=[],
                statusDefinitions={"Traced": "all is followed to its end"},
            ),
            "m.primaryRois as rois": lambda: _table(rois=_PRIMARY),
            "m.superLevelRois as rois": lambda: _table(rois=_SUPER),
        }
        for words, answer in by_return.items():
            if words in cypher:
                return as_json(answer())
        return as_json({"error": f"no answer is known to {cypher!r}"}, status=400)


def refuse(status: int, words: str) -> Response:
    """A message in JSON."""
    return as_json({"message": words}, status=status)


def _table(**columns: Any) -> dict[str, Any]:
    """One row, as Neo4j's answers are passed on."""
    return {"columns": list(columns), "data": [list(columns.values())], "debug": ""}


def _dataset() -> dict[str, Any]:
    return {
        "last-mod": _LAST_MODIFIED,
        "uuid": _UUID,
        "ROIs": _ALL,
        "superLevelROIs": _SUPER,
        "info": "https://dvid.io/blog/release-v1.2",
        "logo": "",
        "hidden": False,
    }


def _meta(dataset: str) -> dict[str, Any]:
    name, _, tag = dataset.partition(":")
    return {
        "dataset": name,
        "tag": tag,
        "uuid": _UUID,
        "lastDatabaseEdit": _LAST_MODIFIED,
        "latestMutationId": 1_000_000,
        "primaryRois": _PRIMARY,
        "superLevelRois": _SUPER,
        "totalPreCount": 9_489_999,
        "totalPostCount": 64_072_451,
        "info": "https://dvid.io/blog/release-v1.2",
        "logo": "",
        "voxelSize": [8.0, 8.0, 8.0],
        "voxelUnits": "nanometers",
    }


def _hierarchy() -> dict[str, Any]:
    parents = {
        "CX": ["EB", "FB", "PB"],
        "MB(R)": ["CA(R)", "a'L(R)"],
        "OL(R)": ["ME(R)"],
    }
    children = [
        {"name": name, "children": [{"name": each} for each in parents.get(name, [])]}
        for name in _SUPER
    ]
    return {"name": "hemibrain", "children": children}


def certificates(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A TLS context for 127.0.0.1, and the file of the authority that vouches for it.

    They are made once and lie in `folder`.
    """
    root = Tree(folder, _make_certificates).root
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(root / "server.pem")
    return context, root / "authority.pem"


def _make_certificates(folder: Path) -> None:
    import trustme

    authority = trustme.CA(organization_name="em-platform stand-in")
    # The files of a world are kept: no certificate among them may run out.
    never = datetime(2100, 1, 1, tzinfo=UTC)
    server = authority.issue_cert("127.0.0.1", "localhost", not_after=never)
    (folder / "authority.pem").write_bytes(authority.cert_pem.bytes())
    server.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
