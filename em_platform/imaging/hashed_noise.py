"""Numbers that depend on integer world coordinates and a seed, and on nothing else.

All are pure functions in plain IEEE arithmetic (no fastmath, no vector libm), so two
tiles that share a world pixel compute the same bits for it.
"""

import numba
import numpy as np

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

Bits = int | np.uint64

# SplitMix64's: 2**64 over the golden ratio, and its two multipliers. All are uint64:
# of an int64 and a uint64 numba makes a float, and bits are lost.
_A = np.uint64(0x9E3779B97F4A7C15)
_B = np.uint64(0xBF58476D1CE4E5B9)
_C = np.uint64(0x94D049BB133111EB)
# Its shifts; the last leaves the 53 bits that a double holds.
_S30, _S27, _S31, _S11 = (np.uint64(shift) for shift in (30, 27, 31, 11))
# Odd, so that each row and column has its own product modulo 2**64.
_ROW, _COLUMN = _A, np.uint64(0xC2B2AE3D27D4EB4F)
_HALF, _S32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_TO_UNIT = 1.0 / (1 << 53)


@_jit
def mix(value: Bits) -> np.uint64:
    """Scramble 64 bits (the finaliser of SplitMix64; Steele, Lea, Flood 2014)."""
    mixed = np.uint64(value) + _A
    mixed = (mixed ^ (mixed >> _S30)) * _B
    mixed = (mixed ^ (mixed >> _S27)) * _C
    return mixed ^ (mixed >> _S31)


@_jit
def hash3(y: Bits, x: Bits, key: Bits) -> np.uint64:
    """64 random bits of the lattice point `(y, x)` in the stream `key`."""
    return mix(np.uint64(y) ^ mix(np.uint64(x) ^ mix(np.uint64(key))))


@_jit
def unit(bits: Bits) -> float:
    """A number in [0, 1) from 64 random bits."""
    return float(np.uint64(bits) >> _S11) * _TO_UNIT


@_jit
def smooth_noise(y: float, x: float, key: Bits) -> float:
    """Value noise in -1..1 whose features are about one unit wide."""
    y_floor, x_floor = np.floor(y), np.floor(x)
    iy, ix = np.int64(y_floor), np.int64(x_floor)
    fy, fx = y - y_floor, x - x_floor
    # Smoothstep: its slope is 0 at the lattice, so that no crease shows there.
    fy = fy * fy * (3.0 - 2.0 * fy)
    fx = fx * fx * (3.0 - 2.0 * fx)
    # `hash3` by hand: corners share their columns, 7 mixes instead of 12.
    stream = mix(np.uint64(key))
    left = mix(np.uint64(ix) ^ stream)
    right = mix(np.uint64(ix + 1) ^ stream)
    a = unit(mix(np.uint64(iy) ^ left))
    b = unit(mix(np.uint64(iy) ^ right))
    c = unit(mix(np.uint64(iy + 1) ^ left))
    d = unit(mix(np.uint64(iy + 1) ^ right))
    top = a + (b - a) * fx
    bottom = c + (d - c) * fx
    return float(2.0 * (top + (bottom - top) * fy) - 1.0)


@_jit
def drifting_noise(y: float, x: float, z: float, key: Bits) -> float:
    """`smooth_noise` that changes smoothly along `z` as well."""
    z_floor = np.floor(z)
    fz = z - z_floor
    fz = fz * fz * (3.0 - 2.0 * fz)
    layer = np.uint64(np.int64(z_floor))
    below = smooth_noise(y, x, mix(layer ^ np.uint64(key)))
    above = smooth_noise(y, x, mix((layer + np.uint64(1)) ^ np.uint64(key)))
    return float(below + (above - below) * fz)


@_jit
def grain_noise(y: int, x: int, key: Bits) -> float:
    """Noise of one world pixel, nearly normal: mean 0, standard deviation 1."""
    # One mix instead of three: it is drawn for every pixel.
    bits = mix(np.uint64(y) * _ROW + np.uint64(x) * _COLUMN + key)
    low = np.float64(bits & _HALF) + np.float64(bits >> _S32)
    # The sum of two uniform numbers has variance 1/6: sqrt(6) makes it 1.
    return float((low * 2.0**-32 - 1.0) * 2.449)
