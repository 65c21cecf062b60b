"""The settings, and where results are, as assets and sensors see them."""

from contextlib import ExitStack
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from em_platform.config import Settings, load_settings
from em_platform.storage import Store, store_of


class Configuration(dg.ConfigurableResource[Any]):
    """The platform's settings, with a run's own on top.

    `overrides` is the last layer: `stitching.match.search_px` -> `200`.
    """

    overrides: dict[str, str] = Field(default_factory=dict)

    def settings(self) -> Settings:
        """All layers merged; ConfigError names the layer of a wrong value."""
        return load_settings(overrides=self.overrides)


class Storage(dg.ConfigurableResource[Any]):
    """The store that the settings name: a folder or an S3 bucket.

    Keys come from the settings' layers and are never part of a run's configuration.
    """

    configuration: Configuration
    _leases: ExitStack = PrivateAttr(default_factory=ExitStack)
    _held: set[str] = PrivateAttr(default_factory=set)
    _work: str = PrivateAttr(default="a Dagster run")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Learn which run writes."""
        if context.run is not None:
            self._work = f"Dagster run {context.run.run_id[:8]}"

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Let others write."""
        self._leases.close()

    def store(self) -> Store:
        """The store; `storage.layout` names what is where in it."""
        return store_of(self.configuration.settings())

    def writing(self, name: str) -> Store:
        """The store, in which this run alone writes at `name` until it ends.

        A run whose steps have a process each does so until the step ends.

        Raises
        ------
        OutputBusy
            Another run, or a command, does; the sentence says which.
        """
        store = self.store()
        # A second lease would find our own first one, and be refused.
        if name not in self._held:
            self._leases.enter_context(store.one_writer(name, work=self._work))
            self._held.add(name)
        return store
