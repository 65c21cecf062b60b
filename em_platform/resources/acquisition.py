"""The microscope and the TEM database, as assets and sensors see them."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from em_platform.acquisition.montages.inbox import Inbox, inbox_of
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder.ledger import Ledger
from em_platform.model import Montage
from em_platform.resources.storage import Configuration
from em_platform.storage import store_of
from em_platform.temdb import register_of

if TYPE_CHECKING:
    from em_platform.temdb.register import Register


class Microscope(dg.ConfigurableResource[Any]):
    """What the microscope has recorded.

    Folders that were dropped into the inbox are montages of a microscope too.
    """

    configuration: Configuration

    def recorder(self) -> Ledger:
        """The table of all messages of the microscope; use it in a `with` block."""
        return ledger_of(self.configuration.settings())

    def inbox(self) -> Inbox:
        """The folder in which tiles of any microscope are dropped."""
        return inbox_of(self.configuration.settings())

    def montage(self, acquisition_id: str) -> Montage:
        """The montage as it was imaged, or as it was dropped into the inbox.

        Frames that have left the microscope's disk are those that aloha has stored.
        """
        with self.recorder() as recorder:
            # The microscope goes first: a folder may bear the name of a montage.
            if not recorder.is_complete(acquisition_id):
                dropped = self.inbox().montage(acquisition_id)
                if dropped is not None:
                    return dropped
            store = store_of(self.configuration.settings())
            return recorder.montage(acquisition_id, store=store)


class TemdbResource(dg.ConfigurableResource[Any]):
    """The TEM database: the one at `temdb.url`, else our own service."""

    configuration: Configuration

    def register(self) -> "Register":
        """TEM DB; whether it answers shows at the first question."""
        return register_of(self.configuration.settings())
