"""What was found of each check for each montage, kept in memory and in a file an asset.

Dagster reads the whole history of a check for each view of its page; with 10,000
montages that takes seconds, most of it to put one montage after another into a set.
"""

import hashlib
import threading
import uuid
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dagster import AssetCheckKey, AssetKey, deserialize_value, serialize_value
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionResolvedStatus,
)
from dagster._core.storage.asset_check_state import AssetCheckState

from em_platform.storage.atomic import write_bytes

States = dict[str, AssetCheckState]


class CheckStates:
    """States by asset and check; safe to use from many threads and processes.

    A state is a point from which Dagster goes on, so an old one is right as long as
    nothing was deleted. Whoever deletes calls `forget`, and all processes begin anew.
    """

    def __init__(self, folder: Path) -> None:
        self.lock = threading.Lock()
        """Taken while states are made: a page asks twice at once."""
        self._folder = folder
        self._mark = ""
        self._known: dict[AssetKey, States] = {}
        self._newest: dict[AssetCheckKey, tuple[int, int]] = {}

    def begin(self, *, deleted: int) -> None:
        """Drop what is known where something was deleted since.

        `deleted` counts the partitions that there are no more.
        """
        mark = f"{self._generation()} {deleted}"
        if mark != self._mark:
            self._mark, self._known, self._newest = mark, {}, {}

    def state(self, key: AssetCheckKey) -> AssetCheckState:
        """Where to go on from; of the beginning where nothing is known."""
        if key.asset_key not in self._known:
            self._known[key.asset_key] = self._read(key.asset_key)
        return self._known[key.asset_key].get(key.name) or AssetCheckState.empty()

    def is_newest(self, keys: Iterable[AssetCheckKey], newest: tuple[int, int]) -> bool:
        """Whether nothing has come since the states of these checks were kept.

        A run that was to make a check may end without an event of it.
        """
        return all(
            self._newest.get(key) == newest and not self.state(key).in_progress_runs
            for key in keys
        )

    def keep(
        self, states: Mapping[AssetCheckKey, AssetCheckState], newest: tuple[int, int]
    ) -> None:
        """Remember states as of the newest events; where they changed, in the file."""
        changed = set()
        self._newest.update(dict.fromkeys(states, newest))
        for key, state in states.items():
            if state != self._known.setdefault(key.asset_key, {}).get(key.name):
                self._known[key.asset_key][key.name] = state
                changed.add(key.asset_key)
        for asset in changed:
            self._write(asset)

    def forget(self) -> None:
        """Begin anew, in all processes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self._folder / "generation", uuid.uuid4().hex.encode())

    def _generation(self) -> str:
        try:
            return (self._folder / "generation").read_text()
        except FileNotFoundError:
            return ""

    def _path(self, asset: AssetKey) -> Path:
        name = hashlib.sha256(asset.to_string().encode()).hexdigest()[:20]
        return self._folder / f"{name}.z"

    def _write(self, asset: AssetKey) -> None:
        # Keys as text: Dagster sorts them, and its enums have no order.
        states: dict[str, Any] = {
            name: [
                state.latest_storage_id,
                {status.value: subset for status, subset in state.subsets.items()},
                state.in_progress_runs,
            ]
            for name, state in self._known[asset].items()
        }
        text = serialize_value([self._mark, states])
        self._folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self._path(asset), zlib.compress(text.encode(), 1))

    def _read(self, asset: AssetKey) -> States:
        try:
            text = zlib.decompress(self._path(asset).read_bytes()).decode()
            mark, states = deserialize_value(text, as_type=list)
            found = {name: _state_of(*parts) for name, parts in states.items()}
        except FileNotFoundError:
            return {}
        except Exception:  # of another version of Dagster, or damaged: it is made anew
            return {}
        return found if mark == self._mark else {}


def _state_of(
    latest: int, subsets: Mapping[str, Any], runs: Mapping[str, Any]
) -> AssetCheckState:
    by_status = {AssetCheckExecutionResolvedStatus(k): v for k, v in subsets.items()}
    return AssetCheckState(
        latest_storage_id=latest, subsets=by_status, in_progress_runs=runs
    )
