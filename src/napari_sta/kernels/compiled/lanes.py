"""A vector of as many floats as are computed with at once, as a type that compiled loops can use.

Loops over the butterflies of a Fourier transform are not vectorised by themselves: too many rows might
overlap.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from napari_sta.kernels.compiled.vectors import lanes, splat

LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
"""Columns that are computed with at once: with more, the registers do not hold a butterfly."""


class Lanes(types.Type):
    """numba's type of the float32 that are computed with at once."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}xf4")


_LANES = Lanes()
_INDEX = ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FLAGS = ("contract", "reassoc", "nsz", "arcp", "nnan", "ninf")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _as_operator(function: Any, instruction: str) -> None:
    @infer_global(function)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and all(isinstance(a, Lanes) for a in args):
                return signature(_LANES, *args)
            return None

    @lower_builtin(function, _LANES, _LANES)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=_FLAGS)


_as_operator(operator.add, "fadd")
_as_operator(operator.sub, "fsub")
_as_operator(operator.mul, "fmul")


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _unaligned_load(builder: Any, pointer: Any) -> Any:
    value = builder.load(pointer)
    value.align = 4
    return value


def _unaligned_store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, pointer).align = 4


@intrinsic
def load(typing_context, array, index):  # type: ignore[no-untyped-def]
    """Neighbours of a flat array, one a lane."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _unaligned_load(builder, _pointer(context, builder, sig.args[0], args[0], args[1]))

    return _LANES(array, types.intp), generate


@intrinsic
def store(typing_context, array, index, value):  # type: ignore[no-untyped-def]
    """Write neighbours of a flat array."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        _unaligned_store(builder, args[2], _pointer(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), generate


@intrinsic
def every_lane(typing_context, number):  # type: ignore[no-untyped-def]
    """One number in every lane."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        none = ir.Constant(_VECTOR, ir.Undefined)
        one = builder.insert_element(none, args[0], ir.Constant(_INDEX, 0))
        first = ir.Constant(ir.VectorType(_INDEX, LANES), [ir.Constant(_INDEX, 0)] * LANES)
        return builder.shuffle_vector(one, none, first)

    return _LANES(types.float32), generate


@intrinsic
def transpose_block(typing_context, source, first, step, target, first_target, step_target):  # type: ignore[no-untyped-def]
    """Transpose ``LANES`` x ``LANES`` numbers; rows are ``step`` and ``step_target`` apart."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        source, first, step, target, first_target, step_target = args

        def at(array_type: Any, array: Any, start: Any, apart: Any, row: int) -> Any:
            index = builder.add(start, builder.mul(apart, ir.Constant(apart.type, row)))
            return _pointer(context, builder, array_type, array, index)

        def interleaved(part: int) -> Any:
            pick = [part + k // 2 + (LANES if k % 2 else 0) for k in range(LANES)]
            return ir.Constant(ir.VectorType(_INDEX, LANES), [ir.Constant(_INDEX, one) for one in pick])

        low, high, half = interleaved(0), interleaved(LANES // 2), LANES // 2
        rows = [_unaligned_load(builder, at(sig.args[0], source, first, step, row)) for row in range(LANES)]
        # Interleaving rows of the first half with those of the second rotates the bits of row and column; as
        # often as each has bits, it swaps them.
        for _ in range(LANES.bit_length() - 1):
            rows = [
                builder.shuffle_vector(rows[k], rows[k + half], part)
                for k in range(half)
                for part in (low, high)
            ]
        for row in range(LANES):
            _unaligned_store(builder, rows[row], at(sig.args[3], target, first_target, step_target, row))
        return context.get_dummy_value()

    indices = (types.intp, types.intp)
    return types.void(source, *indices, target, *indices), generate


@intrinsic
def phase_half_turns(typing_context, k, terms, index, slope, bend, base):  # type: ignore[no-untyped-def]
    """Phases ``terms`` + ``k`` (``slope`` + ``bend`` ``k``) + ``base`` less whole turns, in [-1, 1).

    Computed in float64. Once 1.5 * 2^21 is added, the last 32 bits are the fraction of a turn, exact to 2^-31
    half turns, of phases below 2^20 half turns.
    """

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        double = ir.VectorType(ir.DoubleType(), LANES)
        contract = ("contract",)

        def neighbours(place: int) -> Any:
            array = context.make_array(sig.args[place])(context, builder, args[place])
            at = builder.bitcast(builder.gep(array.data, [args[2]]), double.as_pointer())
            value = builder.load(at)
            value.align = 8
            return value

        k, terms = neighbours(0), neighbours(1)
        slope, bend, base = (splat(builder, number, LANES) for number in args[3:])
        inner = builder.fadd(slope, builder.fmul(bend, k, contract), contract)
        phase = builder.fadd(terms, builder.fmul(inner, k, contract), contract)
        # In this order: the large number last.
        shifted = builder.fadd(builder.fadd(phase, base), ir.Constant(double, [1.5 * 2.0**21] * LANES))
        words = builder.bitcast(shifted, ir.VectorType(_INDEX, 2 * LANES))
        fraction = builder.shuffle_vector(words, words, lanes(*range(0, 2 * LANES, 2)))
        scale = ir.Constant(_VECTOR, [2.0**-31] * LANES)
        return builder.fmul(builder.sitofp(fraction, _VECTOR), scale)

    return _LANES(k, terms, types.intp, *[types.float64] * 3), generate


@intrinsic
def folded(typing_context, turns):  # type: ignore[no-untyped-def]
    """From [-1, 1) half turns to those with the same sine in [-1/2, 1/2]."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        one, minus_one = (ir.Constant(_VECTOR, [number] * LANES) for number in (1.0, -1.0))

        def chosen(comparison: str, a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(comparison, a, b), a, b)

        low = builder.fsub(minus_one, args[0])
        high = builder.fsub(one, args[0])
        return chosen("<", chosen(">", args[0], low), high)

    return _LANES(_LANES), generate
