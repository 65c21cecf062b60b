"""Which lens model a montage is corrected with."""

from em_platform.model import LensModel, Montage
from em_platform.stitching.recipe import lens_digest
from em_platform.stitching.recipe_file import read_tile_recipe
from em_platform.storage import Store, layout


def choose_lens(montage: Montage, store: Store) -> LensModel | None:
    """The model of the lens that imaged `montage`, held for its later steps.

    That of its recipe, where the store still holds what it held when this was decided
    live; else the present one. Without a calibration of that microscope and
    magnification it is None.
    """
    lens = None
    if montage.magnification is not None:
        name = layout.lens(montage.microscope, montage.magnification)
        lens = store.read(name, LensModel) if store.exists(name) else None
    recipe = store.url(layout.recipe(montage.acquisition_id))
    kept = read_tile_recipe(recipe, store.options)
    if kept is not None and kept.is_live and kept.stored_lens == lens_digest(lens):
        lens = kept.lens
    held = () if lens is None else (lens,)
    name = layout.lens_in_use(montage.acquisition_id)
    store.write(name, held, tuple[LensModel, ...])
    return lens


def held_lens(acquisition_id: str, store: Store) -> LensModel | None:
    """The model with which the montage was matched, even if there is a newer one."""
    held = store.read(layout.lens_in_use(acquisition_id), tuple[LensModel, ...])
    return held[0] if held else None
