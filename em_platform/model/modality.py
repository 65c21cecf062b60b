"""How an image was made, in the catalog's words."""

from typing import Literal, get_args

Modality = Literal[
    "EM", "FIB-SEM", "SEM", "TEM", "STEM", "cryo-EM", "SBF-SEM", "ssTEM", "cryo-ET",
    "light",
]  # fmt: skip
"""`EM` where nobody says which kind of electron microscope it was."""
_WORDS: tuple[Modality, ...] = get_args(Modality)
MODALITIES: frozenset[str] = frozenset(_WORDS)


def modality_of(word: object) -> Modality | None:
    """The catalog's word as others write it, None where it is none of them."""
    text = str(word).strip().lower()
    return _OTHERS.get(text) or {m.lower(): m for m in _WORDS}.get(text)


_OTHERS: dict[str, Modality] = {
    "electron microscopy": "EM",
    "volume em": "EM",
    "fibsem": "FIB-SEM",
    "sbfsem": "SBF-SEM",
    "sbem": "SBF-SEM",
    "serial block-face sem": "SBF-SEM",
    "ss-tem": "ssTEM",
    "cryoem": "cryo-EM",
    "cryoet": "cryo-ET",
    "lm": "light",
    "light microscopy": "light",
    "fluorescence": "light",
}
