"""Laws that operators keep, each stated in a test by one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch


def _array(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def inner(a: Any, b: Any) -> complex:
    """<a, b>, conjugate in the first, summed in double precision."""
    a, b = _array(a), _array(b)
    assert a.shape == b.shape, (a.shape, b.shape)
    wide = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
    return complex(np.vdot(a.astype(wide), b.astype(wide)))


def assert_adjoint(
    forward: Callable[[Any], Any], adjoint: Callable[[Any], Any], x: Any, y: Any, rtol: float = 1e-5
) -> None:
    """<A x, y> = <x, A^H y>, relative to the lengths of both sides' vectors.

    With complex numbers that come from half spectra an operator is only real-linear, so the real
    parts are compared.
    """
    ax, ahy = forward(x), adjoint(y)
    left, right = inner(ax, y).real, inner(x, ahy).real
    size = np.linalg.norm(_array(ax)) * np.linalg.norm(_array(y))
    assert size > 0, "the law says nothing about zeros"
    assert abs(left - right) <= rtol * size, f"<Ax, y> = {left:.9g} but <x, A^H y> = {right:.9g}"
    # A pair of zero operators would pass as well.
    assert abs(left) > 10 * rtol * size, "x and y are orthogonal under A; choose others"


def assert_inverse(
    forward: Callable[[Any], Any], inverse: Callable[[Any], Any], x: Any, rtol: float = 1e-5
) -> None:
    """B(A(x)) = x."""
    back, start = _array(inverse(forward(x))), _array(x)
    assert back.shape == start.shape, (back.shape, start.shape)
    scale = np.abs(start).max()
    np.testing.assert_allclose(back / scale, start / scale, rtol=0, atol=rtol)


def assert_linear(operator: Callable[[Any], Any], x: Any, y: Any, rtol: float = 1e-5) -> None:
    """A(2 x - 3 y) = 2 A(x) - 3 A(y)."""
    left = _array(operator(2 * x - 3 * y))
    right = 2 * _array(operator(x)) - 3 * _array(operator(y))
    scale = np.abs(right).max()
    assert scale > 0
    np.testing.assert_allclose(left / scale, right / scale, rtol=0, atol=rtol)


def assert_invariant(
    operator: Callable[[Any], Any], change: Callable[[Any], Any], x: Any, rtol: float = 1e-5
) -> None:
    """A(T(x)) = A(x)."""
    left, right = _array(operator(change(x))), _array(operator(x))
    scale = np.abs(right).max() or 1.0
    np.testing.assert_allclose(left / scale, right / scale, rtol=0, atol=rtol)


def assert_inputs_untouched(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function and check that it wrote into none of its arguments; return its result."""
    watched = [a for a in [*arguments, *options.values()] if isinstance(a, (np.ndarray, torch.Tensor))]
    before = [_array(a).copy() for a in watched]
    result = function(*arguments, **options)
    for array, copy in zip(watched, before, strict=True):
        np.testing.assert_array_equal(_array(array), copy)
    return result


def assert_group(matrices: Sequence[Any] | np.ndarray, atol: float = 1e-6) -> None:
    """The matrices are rotations, hold the identity and are closed under multiplication."""
    group = np.asarray([_array(m) for m in matrices], dtype=np.float64)
    eye = np.eye(group.shape[-1])
    np.testing.assert_allclose(group @ np.swapaxes(group, 1, 2), np.broadcast_to(eye, group.shape), atol=atol)
    np.testing.assert_allclose(np.linalg.det(group), 1.0, atol=atol)
    assert (np.abs(group - eye).max(axis=(1, 2)) < atol).sum() == 1
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 1, *eye.shape)
    nearest = np.abs(products - group[None]).max(axis=(2, 3)).min(axis=1)
    assert nearest.max() < max(atol, 1e-5), "a product of two elements is not in the group"
