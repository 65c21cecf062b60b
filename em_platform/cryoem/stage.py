"""What a stage is: parameters in, files in a folder and a result out.

A stage is one module of `em_platform.cryoem.stages` with three names: `Parameters`,
`Result`, and `run(parameters, folder) -> Result`. The command line, a Dagster asset and
a live service call the same `run`, so the same parameters give the same files.
"""

from em_platform.model import Model
from em_platform.model.base import Foreign


class StageParameters(Foreign):
    """Parameters of a stage, named as the services of cryoem-services name them.

    Messages carry the parameters of other stages too, so unknown names are passed over.
    A field that had another name before has `validation_alias=AliasChoices(...)` with
    today's name first, which wins.
    """


class StageResult(Model):
    """What a stage found, as its JSON says it; paths are relative to its folder."""
