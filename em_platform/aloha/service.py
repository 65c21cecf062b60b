"""The process of aloha."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from em_platform.aloha.acquisitions import Acquisitions
from em_platform.aloha.app import make_app
from em_platform.config import Settings
from em_platform.processes.single_instance import single_instance
from em_platform.processes.web import serve
from em_platform.storage import store_of
from em_platform.storage.tokens import token_of
from em_platform.temdb import register_of

_WAITERS = 16
"""Threads for calls that wait for the store or the TEM database."""


def run(settings: Settings, *, name: str) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises
    ------
    ConfigError
        The port is taken, or another aloha works in this home.
    """
    folder = settings.home.absolute() / "aloha"
    aloha = settings.aloha
    token = token_of(settings.home, "aloha", aloha.token.get_secret_value())
    with (
        single_instance(folder, "aloha"),  # two would empty each other's scratch folder
        # Two pools: a slow database must not stop pixels, nor pixels an answer.
        ThreadPoolExecutor(_WAITERS, thread_name_prefix="aloha waits") as waiters,
        ThreadPoolExecutor(aloha.workers, thread_name_prefix="aloha works") as workers,
    ):
        acquisitions = Acquisitions(
            folder, store_of(settings), register_of(settings), aloha
        )
        app = make_app(
            acquisitions, token=token, settings=aloha, waiters=waiters, workers=workers
        )
        with closing(acquisitions.journal):
            serve(
                app,
                name=name,
                host=aloha.host,
                port=aloha.port,
                trusted_proxies=settings.web.trusted_proxies,
            )
