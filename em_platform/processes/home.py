"""The folder in which the processes of a platform keep what is theirs."""

from em_platform.config import Settings
from em_platform.storage.guard import claim_folder

_BEFORE = (
    # What a person puts there before the first start, such as `up > home/up.log`.
    *("inbox", "frames", "config.yaml", "*.log", "*.out"),
    # What has guards of its own.
    *("data", "raw", "logs", "dagster", "demo", "standins"),
)


def claim_home(settings: Settings) -> None:
    """Make `home` ours; every command that works in it does so first.

    Raises
    ------
    OutputRefused
        It holds what this program did not make.
    """
    claim_folder(str(settings.home.absolute()), "home", known=_BEFORE)
