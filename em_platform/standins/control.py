"""Faults and the log of requests over HTTP, for tests and people in other processes."""

from em_platform.errors import ConfigError
from em_platform.standins.faults import Faults, fault_of
from em_platform.standins.messages import Request, Response, Router, as_json
from em_platform.standins.requests_log import RequestsLog


def control(faults: Faults, requests: RequestsLog) -> Router:
    """Answers GET, POST and DELETE of `/faults`, GET and DELETE of `/requests`.

    POST takes one fault or a list of them. `/requests?path=` gives only those whose
    path contains the text.
    """

    def show(_: Request) -> Response:
        return as_json(faults.all())

    def add(request: Request) -> Response:
        try:
            given = request.json
            listed = given if isinstance(given, list) else [given]
            faults.add(*(fault_of(each) for each in listed))
        except (ValueError, TypeError, AttributeError, ConfigError) as error:
            return as_json({"message": str(error)}, status=400)
        return as_json(faults.all())

    def clear(_: Request) -> Response:
        faults.clear()
        return as_json([])

    def asked(request: Request) -> Response:
        part = request.asked("path")
        return as_json([e for e in requests.as_json() if part in e["path"]])

    def forget(_: Request) -> Response:
        requests.clear()
        return as_json([])

    router = Router()
    router.add("/faults/?", show)
    router.add("/faults/?", add, methods=("POST",))
    router.add("/faults/?", clear, methods=("DELETE",))
    router.add("/requests/?", asked)
    router.add("/requests/?", forget, methods=("DELETE",))
    return router
