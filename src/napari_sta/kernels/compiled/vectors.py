"""What the compiled kernels need to build vector instructions by hand, where loops are not vectorised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

FLOAT, INT, INDEX = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FAST = ("fast",)


def lanes(*places: int) -> ir.Constant:
    """Return a vector of whole numbers: which lanes a shuffle takes."""
    return ir.Constant(ir.VectorType(INT, len(places)), list(places))


def splat(builder: Any, value: Any, width: int) -> Any:
    """Put one value into every lane."""
    nothing = ir.Constant(ir.VectorType(value.type, width), ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, nothing, lanes(*[0] * width))


def pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, width: int) -> Any:
    """Address of ``width`` neighbours of a flat array; no wrap-around of negative indices."""
    place = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    if width == 1:
        return place
    return builder.bitcast(place, ir.VectorType(place.type.pointee, width).as_pointer())


def between(builder: Any, low: Any, high: Any, part: Any) -> Any:
    """Interpolate linearly."""
    return builder.fadd(low, builder.fmul(part, builder.fsub(high, low, FAST), FAST), FAST)


def elementwise(builder: Any, name: str, vector: ir.VectorType) -> Callable[[Any], Any]:
    """Return one of LLVM's functions of a number (``fabs``, ``ceil``), lane by lane."""
    from numba.core import cgutils

    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector]), f"llvm.{name}.v{vector.count}f32"
    )
    return lambda value: builder.call(function, [value])
