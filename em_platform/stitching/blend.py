"""Kernels that put tiles into a mosaic: bilinear sampling and feathered blending.

A tile's weight falls linearly to 0 at the edge of its valid region. Sums are double
because the product of two single-precision numbers is exact in it, and so is its
quotient by one of them: where one tile alone lies, blending gives what pasting gives,
and it does not matter how a mosaic is cut into blocks.
"""

import numba
import numpy as np

# Distance of the nodes between which `add_warped` interpolates.
STEP_PX = 16

# log2 of `STEP_PX`: pixels become nodes by a shift.
_SHIFT = 4
# Added before a cut to 8 bit, which rounds to the nearest.
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
        `(2, n, m)` float64: which tile pixel `(y, x)` is at each node; nodes are
        `STEP_PX` apart.
    """
    rows, columns = (nodes.shape[1] - 1) * STEP_PX, (nodes.shape[2] - 1) * STEP_PX
    first, last = max(0, -x0), min(total.shape[1], columns - x0)
    # Flat and unsigned, so that numba need not look for negative indices.
    pixels, usable, line = tile.reshape(-1), mask.reshape(-1), np.uint64(tile.shape[1])
    top, left, bottom, right = valid[0], valid[1], valid[2] - 1.0, valid[3] - 1.0
    one = np.float32(1)
    for i in range(max(0, -y0), min(total.shape[0], rows - y0)):
        n, down = (y0 + i) >> _SHIFT, ((y0 + i) & (STEP_PX - 1)) / STEP_PX
        for j in range(first, last):
            m, along = (x0 + j) >> _SHIFT, ((x0 + j) & (STEP_PX - 1)) / STEP_PX
            if along == 0 or j == first:
                ya, yb = _at(nodes, 0, n, m, down), _at(nodes, 0, n, m + 1, down)
                xa, xb = _at(nodes, 1, n, m, down), _at(nodes, 1, n, m + 1, down)
            y, x = ya + (yb - ya) * along, xa + (xb - xa) * along
            inside = min(min(y - top, bottom - y), min(x - left, right - x))
            if inside < 0:
                continue
            r, c = np.uint64(y), np.uint64(x)
            fy, fx = np.float32(y - r), np.float32(x - c)
            a = r * line + c
            b, d = a + np.uint64(fx > 0), a + np.uint64(fy > 0) * line
            e = d + (b - a)
            if usable.size > 0 and not (
                usable[a] and usable[b] and usable[d] and usable[e]
            ):
                continue
            upper = (one - fx) * np.float32(pixels[a]) + fx * np.float32(pixels[b])
            lower = (one - fx) * np.float32(pixels[d]) + fx * np.float32(pixels[e])
            w = np.float64(np.float32(inside + 1))
            total[i, j] += w * np.float64((one - fy) * upper + fy * lower)
            weight[i, j] += w


@numba.njit(nogil=True, cache=True, inline="always")
def _at(nodes, plane, n, m, down):  # type: ignore[no-untyped-def]
    return nodes[plane, n, m] + (nodes[plane, n + 1, m] - nodes[plane, n, m]) * down


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
