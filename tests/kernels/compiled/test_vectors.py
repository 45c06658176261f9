"""The pieces that vector instructions are built of."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from napari_sta.kernels.compiled.vectors import FLOAT, INT, between, elementwise, lanes, pointer, splat


def test_lanes_are_whole_numbers_in_the_order_given():
    assert str(lanes(3, 0, 2)) == "<3 x i32> <i32 3, i32 0, i32 2>"


@intrinsic
def _interpolated(_, array, index, part):
    """Four neighbours, and four from one further on; what lies between them, its absolute ceiling, stored."""
    signature = types.void(array, types.intp, types.float32)

    def generate(context, builder, sig, args):
        def at(place):
            return pointer(context, builder, sig.args[0], args[0], builder.add(args[1], place), 4)

        one = ir.Constant(ir.IntType(64), 1)
        low, high = builder.load(at(ir.Constant(ir.IntType(64), 0)), align=4), builder.load(at(one), align=4)
        value = between(builder, low, high, splat(builder, args[2], 4))
        vector = ir.VectorType(FLOAT, 4)
        value = elementwise(builder, "fabs", vector)(elementwise(builder, "ceil", vector)(value))
        swapped = builder.shuffle_vector(value, value, lanes(1, 0, 3, 2))
        builder.store(swapped, at(one), align=4)
        single = pointer(context, builder, sig.args[0], args[0], args[1], 1)
        builder.store(builder.sitofp(ir.Constant(INT, -7), FLOAT), single, align=4)
        return context.get_dummy_value()

    return signature, generate


@njit
def _call(array, index, part):
    _interpolated(array, index, part)


def test_neighbours_are_read_mixed_and_written():
    array = np.array([9, 9, -3.5, 0.2, 1.0, 2.5, -8.0, 9], np.float32)
    _call(array, 2, np.float32(0.25))
    # -2.575, 0.4, 1.375, -0.125 -> ceiling, absolute, neighbours swapped
    assert array.tolist() == [9, 9, -7, 1, 2, 0, 2, 9]
