"""The parameters of a command, and what it gives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from em_platform.errors import RecordError
from em_platform.model import JsonObject


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Where a command's parameters are found: the first layer that has one wins.

    `$name` and `${name}` are values that earlier steps left in the environment.
    """

    layers: Sequence[JsonObject]
    environment: JsonObject = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The value, or None where no layer has one.

        Raises
        ------
        RecordError
            It names something that the environment has not.
        """
        found = (layer[name] for layer in self.layers if layer.get(name) is not None)
        value = next(found, None)
        if isinstance(value, str) and value.startswith("$"):
            wanted = value[1:].removeprefix("{").removesuffix("}")
            if wanted not in self.environment:
                raise RecordError(
                    f"ISPyB: {name} is {value}, but no step has stored {wanted}; add "
                    f'"store_result": "{wanted}" to the step that makes it'
                )
            value = self.environment[wanted]
        return None if value == "None" else value

    def known(self, name: str) -> Any:
        """As `get`, but None for what no step has stored: a row's own id may be so."""
        try:
            return self.get(name)
        except RecordError:
            return None

    def needed(self, name: str) -> Any:
        """As `get`, for what must be there."""
        value = self.get(name)
        if value is None or value == "":
            command = self.get("ispyb_command") or "the command"
            raise RecordError(
                f"ISPyB: {command} has no {name}, one was expected; add it to the "
                "message or to the recipe's step"
            )
        return value

    def above(self, layer: JsonObject) -> "Lookup":
        """The same with one more layer, which wins."""
        return Lookup(layers=(layer, *self.layers), environment=self.environment)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The id that a command gives, and what it leaves for later steps."""

    result: int
    stored: JsonObject = field(default_factory=dict)
