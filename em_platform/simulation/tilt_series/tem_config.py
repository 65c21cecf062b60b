"""The configuration files of TEM-simulator 1.3: components with parameters, tables.

    === component name ===
    parameter = value        # a value with spaces stands in double quotes

Grammar and names: manual of TEM-simulator 1.3 (Rullgård et al. 2011).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from em_platform.config.reading import read_regular
from em_platform.errors import FormatError

_FILES = (
    "map_file_format map_axis_order map_file_byte_order map_file_re_out map_file_im_out"
)
_BOX = "nx ny nz"

PARAMETERS: dict[str, frozenset[str]] = {
    component: frozenset(names.split())
    for component, names in {
        "simulation": "generate_micrographs generate_volumes generate_particle_maps "
        "log_file rand_seed",
        "sample": "diameter thickness_center thickness_edge offset_x offset_y",
        "particle": f"source voxel_size {_BOX} use_imag_pot famp use_defocus_corr "
        "pdb_file_in pdb_transf_file_in add_hydrogen map_file_re_in map_file_im_in "
        f"{_FILES} contrast_re contrast_im smoothness make_positive",
        "particleset": "particle_type particle_coords gen_rand_positions where "
        f"num_particles particle_conc occupancy {_BOX} offset_x offset_y offset_z "
        "particle_dist coord_file_in coord_file_out",
        "geometry": "ntilts gen_tilt_data tilt_axis theta_start theta_incr tilt_mode "
        "geom_file_in geom_file_out geom_errors tilt_err align_err_rot align_err_tr "
        "error_file_in error_file_out",
        "electronbeam": "acc_voltage energy_spread gen_dose total_dose dose_per_im "
        "dose_sd dose_file_in dose_file_out",
        "optics": "magnification gen_defocus defocus_nominal defocus_syst_error "
        "defocus_nonsyst_error defocus_file_in defocus_file_out cs cc aperture "
        "focal_length cond_ap_angle",
        "detector": "det_pix_x det_pix_y padding pixel_size gain dqe use_quantization "
        "mtf_a mtf_b mtf_c mtf_alpha mtf_beta mtf_p mtf_q image_file_out "
        "image_file_format image_axis_order image_file_byte_order",
        "volume": f"voxel_size {_BOX} offset_x offset_y offset_z {_FILES}",
    }.items()
}
"""Component -> its parameters."""

Value = str | bool | int | float | Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One block of a configuration; of a parameter given twice the last one counts."""

    kind: str
    name: str = ""
    values: Mapping[str, Value]

    def number(self, parameter: str, default: float | None = None) -> float:
        """A parameter that is a number.

        Raises
        ------
        FormatError
            It is missing, or no number.
        """
        value = self.values.get(parameter, default)
        if value is None:
            raise FormatError(
                f"TEM-simulator configuration: {self.kind} has no {parameter}, a "
                "number was expected; add it"
            )
        try:
            number = float(value)  # type: ignore[arg-type]
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise FormatError(
                f"TEM-simulator configuration: found {parameter} = {value} in "
                f"{self.kind}, a number was expected; correct it"
            )
        return number

    def flag(self, parameter: str, default: bool) -> bool:
        """A parameter that is `yes` or `no`.

        Raises
        ------
        FormatError
            It is neither.
        """
        value = self.values.get(parameter, "yes" if default else "no")
        if value not in ("yes", "no"):
            raise FormatError(
                f"TEM-simulator configuration: found {parameter} = {value} in "
                f"{self.kind}, yes or no was expected; correct it"
            )
        return value == "yes"


def parse(text: str, *, source: str) -> list[Component]:
    """The components of a configuration, in their order.

    Raises
    ------
    FormatError
        A line is neither, or a component or a parameter is unknown.
    """
    found: list[Component] = []
    values: dict[str, Value] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("="):
            kind, _, name = line.strip("= \t").partition(" ")
            if kind not in PARAMETERS:
                raise _wrong(source, number, f"the component {kind}", PARAMETERS)
            values = {}
            found.append(Component(kind=kind, name=name.strip(), values=values))
            continue
        parameter, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not value or not found:
            raise FormatError(
                f"{source}: found {line!r} in line {number}, `parameter = value` below "
                "`=== component ===` was expected; correct it"
            )
        if parameter not in PARAMETERS[found[-1].kind]:
            what = f"{found[-1].kind}'s parameter {parameter}"
            raise _wrong(source, number, what, PARAMETERS[found[-1].kind])
        values[parameter] = (
            value[1:].partition('"')[0] if value[0] == '"' else value.split()[0]
        )
    return found


def text_of(components: Iterable[Component]) -> str:
    """A configuration as TEM-simulator reads it.

    Raises
    ------
    FormatError
        A name of a file has a quotation mark or a line break.
    """
    lines = []
    for component in components:
        lines.append(f"=== {component.kind} {component.name} ===".replace("  ", " "))
        lines += [f"{name} = {_shown(v)}" for name, v in component.values.items()]
        lines.append("")
    return "\n".join(lines)


def table_text(rows: Sequence[Sequence[float]], *, columns: int) -> str:
    """A table as TEM-simulator reads it: `rows columns`, then numbers, not rounded."""
    lines = [f"{len(rows)} {columns}"]
    lines += [" ".join(f"{value:.9g}" for value in row) for row in rows]
    return "\n".join([*lines, ""])


def read_table(path: Path, *, least_columns: int) -> NDArray[np.float64]:
    """The rows of a table, `(n, columns)`: as many as its first line says.

    Raises
    ------
    FormatError
        It cannot be read, or has fewer rows or columns.
    """
    try:
        lines = read_regular(path).decode().splitlines()
        kept = [line.split() for line in lines if line.strip() and line[0] != "#"]
        rows, columns = (int(word) for word in kept[0][:2])
        table = np.array(
            [[float(x) for x in row[:columns]] for row in kept[1 : rows + 1]]
        )
        table = table.reshape(rows, columns)
    except (OSError, ValueError, IndexError) as error:
        raise FormatError(
            f"{path}: it cannot be read as a table ({error}), a line `rows columns` "
            "and as many rows of numbers were expected; correct it"
        ) from error
    if columns < least_columns or not np.isfinite(table).all():
        raise FormatError(
            f"{path}: found {columns} columns, at least {least_columns} of finite "
            "numbers were expected; correct it"
        )
    return table


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.9g}"
    text = str(value)
    if '"' in text or "\n" in text or "\r" in text:
        raise FormatError(
            f"TEM-simulator configuration: found the name {text!r}, one without "
            "quotation marks and line breaks was expected; rename the file"
        )
    return f'"{text}"' if " " in text or "\t" in text else text


def _wrong(source: str, line: int, what: str, known: Iterable[str]) -> FormatError:
    return FormatError(
        f"{source}: found {what} in line {line}, one of {', '.join(sorted(known))} was "
        "expected; correct it"
    )
