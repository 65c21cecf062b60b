"""Kernels that put tiles into a mosaic: bilinear sampling and feathered blending.

A tile's weight falls linearly to 0 at the edge of its valid region. Sums are double
because the product of two single-precision numbers is exact in it, and so is its
quotient by one of them: where one tile alone lies, blending gives what pasting gives,
and it does not matter how a mosaic is cut into blocks.
"""

import numba
import numpy as np

STEP_PX = 16
"""Distance of the nodes between which `add_warped` interpolates."""

_SHIFT = 4
_HALF = np.float32(0.5)


@numba.njit(nogil=True, cache=True)
def paste_shifted(out, top, left, height, width, tile, y, x, fy, fx):  # type: ignore[no-untyped-def]
    """Fill a rectangle of `out` with a tile, read at `(y + fy, x + fx)` onwards.

    Parameters
    ----------
    out
        `(h, w)` uint8, of which the rectangle at `top, left` is written.
    tile
        `(h, w)` uint8, C-contiguous.
    fy, fx
        0 <= f < 1, float32; where 0 the next row or column is not touched.
    """
    a = (np.float32(1) - fy) * (np.float32(1) - fx)
    b = (np.float32(1) - fy) * fx
    c = fy * (np.float32(1) - fx)
    d = fy * fx
    dy = 1 if fy > 0 else 0
    dx = 1 if fx > 0 else 0
    for i in range(height):
        row = out[top + i, left : left + width]
        upper = tile[y + i, x : x + width]
        upper_next = tile[y + i, x + dx : x + dx + width]
        lower = tile[y + i + dy, x : x + width]
        lower_next = tile[y + i + dy, x + dx : x + dx + width]
        for j in range(width):
            value = (a * np.float32(upper[j]) + b * np.float32(upper_next[j])) + (
                c * np.float32(lower[j]) + d * np.float32(lower_next[j])
            )
            row[j] = np.uint8(value + _HALF)


@numba.njit(nogil=True, cache=True)
def add_shifted(total, weight, top, left, height, width, tile, y, x, fy, fx, valid):  # type: ignore[no-untyped-def]
    """Add a tile, read as by `paste_shifted`, times its weight to the sums of a block.

    Parameters
    ----------
    total, weight
        `(h, w)` float64, of which the rectangle at `top, left` is added to.
    valid
        `(4,)` int64: y0, x0, y1, x1 of the tile's valid region.
    """
    a = (np.float32(1) - fy) * (np.float32(1) - fx)
    b = (np.float32(1) - fy) * fx
    c = fy * (np.float32(1) - fx)
    d = fy * fx
    dy = 1 if fy > 0 else 0
    dx = 1 if fx > 0 else 0
    from_left = np.float32(x - valid[1] + 1) + fx
    from_right = np.float32(valid[3] - x) - fx
    for i in range(height):
        sums = total[top + i, left : left + width]
        weights = weight[top + i, left : left + width]
        upper = tile[y + i, x : x + width]
        upper_next = tile[y + i, x + dx : x + dx + width]
        lower = tile[y + i + dy, x : x + width]
        lower_next = tile[y + i + dy, x + dx : x + dx + width]
        inside = min(
            np.float32(y + i - valid[0] + 1) + fy, np.float32(valid[2] - y - i) - fy
        )
        for j in range(width):
            value = (a * np.float32(upper[j]) + b * np.float32(upper_next[j])) + (
                c * np.float32(lower[j]) + d * np.float32(lower_next[j])
            )
            column = np.float32(j)
            w = min(inside, min(from_left + column, from_right - column))
            sums[j] += np.float64(w) * np.float64(value)
            weights[j] += np.float64(w)


@numba.njit(nogil=True, cache=True)
def add_warped(total, weight, y0, x0, tile, mask, nodes, valid):  # type: ignore[no-untyped-def]
    """Add a tile that lies anyhow, times its weight, to the sums of a block.

    Parameters
    ----------
    total, weight
        `(h, w)` float64.
    y0, x0
        Place of the block's first pixel among the nodes, in pixels; may be negative.
    mask
        `(h, w)` bool, True where the tile may be used; `(0, 0)` where all may.
    nodes
        `(2, n, m)` float64: which tile pixel `(y, x)` lies at each node; nodes are
        `STEP_PX` apart.
    """
    rows, columns = (nodes.shape[1] - 1) * STEP_PX, (nodes.shape[2] - 1) * STEP_PX
    first, last = max(0, -x0), min(total.shape[1], columns - x0)
    last_y, last_x = float(valid[2] - 1), float(valid[3] - 1)
    masked = mask.size > 0
    for i in range(max(0, -y0), min(total.shape[0], rows - y0)):
        n, down = (y0 + i) >> _SHIFT, ((y0 + i) & (STEP_PX - 1)) / STEP_PX
        for j in range(first, last):
            m, along = (x0 + j) >> _SHIFT, ((x0 + j) & (STEP_PX - 1)) / STEP_PX
            y = _between(nodes[0], n, m, down, along)
            x = _between(nodes[1], n, m, down, along)
            if y < valid[0] or x < valid[1] or y > last_y or x > last_x:
                continue
            r, c = int(y), int(x)
            fy, fx = np.float32(y - r), np.float32(x - c)
            r1 = r + 1 if fy > 0 else r
            c1 = c + 1 if fx > 0 else c
            if masked and not (
                mask[r, c] and mask[r, c1] and mask[r1, c] and mask[r1, c1]
            ):
                continue
            upper = (
                np.float32(tile[r, c]) * (np.float32(1) - fx)
                + np.float32(tile[r, c1]) * fx
            )
            lower = (
                np.float32(tile[r1, c]) * (np.float32(1) - fx)
                + np.float32(tile[r1, c1]) * fx
            )
            value = upper * (np.float32(1) - fy) + lower * fy
            w = np.float32(
                min(
                    min(y - valid[0] + 1, valid[2] - y),
                    min(x - valid[1] + 1, valid[3] - x),
                )
            )
            total[i, j] += np.float64(w) * np.float64(value)
            weight[i, j] += np.float64(w)


@numba.njit(nogil=True, cache=True, inline="always")
def _between(plane, n, m, down, along):  # type: ignore[no-untyped-def]
    left = plane[n, m] + (plane[n + 1, m] - plane[n, m]) * down
    right = plane[n, m + 1] + (plane[n + 1, m + 1] - plane[n, m + 1]) * down
    return left + (right - left) * along


@numba.njit(nogil=True, cache=True)
def finish_block(out, top, left, total, weight, background):  # type: ignore[no-untyped-def]
    """Fill a rectangle of `out` with the weighted means; `background` without weight.

    Parameters
    ----------
    out
        `(h, w)` uint8.
    total, weight
        `(h, w)` float64, the size of the rectangle.
    """
    height, width = total.shape
    for i in range(height):
        row = out[top + i, left : left + width]
        for j in range(width):
            w = weight[i, j]
            value = np.float32(total[i, j] / max(w, 1e-30)) + _HALF
            row[j] = np.uint8(value) if w > 0 else background
