"""Update rules in the Fourier and in the cosine domain."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ...core import Count, Modules, Passed, Var
from ...core.evaluate import uniform_settings
from ...linalg import at_least_float32, dct, flatten, idct, unflatten_as
from .base import Current, Projection

#: Where the factor of a pair of transforms is: with the inverse, with the transform, its root with both.
TRANSPOSED = {"backward": "forward", "forward": "backward", "ortho": "ortho"}


class FFTProjection(Projection):
    """Runs modules on the real Fourier transform, whose last dimension has the real and the imaginary part.

    With ``project_params`` the gradient that the modules see is that of the loss with respect to what they move.

    Args:
        modules: what runs in the Fourier domain.
        one_d: one transform of all parameters joined into one vector; otherwise each tensor has its own, over all its
            dimensions.
        norm: the scale, as in ``torch.fft``: "backward" (or None), "ortho", "forward".
        project_update: the modules start from the update and give the new one. False: they start from the gradient.
        project_params: give the modules a closure in the Fourier domain, for line searches and the like.
        project_grad: transform the gradients even if nobody asks for them.

    Raises:
        ValueError: with ``one_d``, settings that differ between parameter groups.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(4, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 5.0, 3.0, 5.0])
        >>> tz.Modular([p], tz.m.FFTProjection(tz.m.ClipValue(8.0))).step()  # clips the sum, 16, not the wave, -4
        >>> p.detach()
        tensor([-1., -3., -1., -3.])
    """

    modules: Passed[Modules]
    one_d: bool = False
    norm: Literal["backward", "ortho", "forward"] | None = None
    project_update: Passed[bool] = True
    project_params: Passed[bool] = False
    project_grad: Passed[bool] = False

    @property
    def joins(self) -> bool:  # type: ignore[override]
        """Whether all parameters are one vector."""
        return bool(self.defaults["one_d"])

    def _norms(self, params: list[Tensor]) -> list[str]:
        uniform_settings(self, params, ("one_d", "norm") if self.joins else ("one_d",))
        return [self.settings[p]["norm"] or "backward" for p in params]

    def project(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Transform."""
        norms, of_loss = self._norms(var.params), current == "grads" and self.project_params
        inputs = [flatten(tensors)] if self.joins else [t.reshape(t.shape or (1,)) for t in tensors]
        return [_to_fourier(x, norm, of_loss=of_loss) for x, norm in zip(inputs, norms, strict=False)]

    def unproject(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Transform back."""
        params, norms = var.params, self._norms(var.params)
        if self.joins:
            return unflatten_as(_from_fourier(tensors[0], (sum(p.numel() for p in params),), norms[0]), params)
        return [
            _from_fourier(z, p.shape or (1,), norm).view(p.shape).to(p.dtype)
            for z, p, norm in zip(tensors, params, norms, strict=True)
        ]

    def keeper(self, index: int, var: Var, default: Tensor) -> Tensor:
        """Each tensor's own parameter."""
        return default if self.joins else var.params[index]


def _to_fourier(x: Tensor, norm: str, *, of_loss: bool) -> Tensor:
    x = at_least_float32(x)
    if not x.numel():
        return x.new_zeros(0, 2)
    z = torch.view_as_real(torch.fft.rfftn(x, norm=TRANSPOSED[norm] if of_loss else norm))
    if of_loss:  # frequencies that stand for their conjugates too count twice
        z[..., 1 : (x.shape[-1] + 1) // 2, :] *= 2
    return z


def _from_fourier(z: Tensor, shape: tuple[int, ...], norm: str) -> Tensor:
    if not z.numel():
        return z.new_zeros(shape)
    return torch.fft.irfftn(torch.view_as_complex(z.contiguous()), s=shape, norm=norm)


class DCTProjection(Projection):
    """Runs modules on the discrete cosine transform (DCT-II) of each tensor.

    With ``project_params`` the gradient that the modules see is that of the loss with respect to what they move.

    Args:
        modules: what runs in the cosine domain.
        dims: how many dimensions are transformed, the first ones.
        norm: the scale: "ortho" (or None), so that norms stay; "backward" and "forward" as in ``scipy.fft.dctn``.
        project_update: the modules start from the update and give the new one. False: they start from the gradient.
        project_params: give the modules a closure in the cosine domain, for line searches and the like.
        project_grad: transform the gradients even if nobody asks for them.

    Reference:
        Makhoul, "A fast cosine transform in one and two dimensions", 1980.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(4, requires_grad=True)
        >>> p.grad = torch.tensor([2.0, 4.0, 4.0, 2.0])
        >>> tz.Modular([p], tz.m.DCTProjection(tz.m.ClipValue(2.0))).step()  # clips the mean, which is 3, to 1
        >>> p.detach().round().abs()
        tensor([0., 2., 2., 0.])
    """

    modules: Passed[Modules]
    dims: Count = 3
    norm: Literal["ortho", "backward", "forward"] | None = None
    project_update: Passed[bool] = True
    project_params: Passed[bool] = False
    project_grad: Passed[bool] = False
    joins = False

    def project(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Transform."""
        of_loss, out = current == "grads" and self.project_params, []
        for t, p in zip(tensors, var.params, strict=True):
            x = at_least_float32(t)
            for dim, scale in self._scales(p):
                x = dct(x, dim)
                if scale is not None:
                    x = x / scale if of_loss else x * scale
            out.append(x)
        return out

    def unproject(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Transform back."""
        out = []
        for x, p in zip(tensors, var.params, strict=True):
            for dim, scale in self._scales(p):
                x = idct(x if scale is None else x / scale, dim)
            out.append(x.to(p.dtype))
        return out

    def _scales(self, param: Tensor) -> list[tuple[int, Tensor | None]]:
        """The dimensions to transform, and the scale of each frequency where it is not the orthonormal one."""
        h = self.settings[param]
        dims = range(min(h["dims"], param.dim())) if param.numel() else range(0)
        if h["norm"] in (None, "ortho"):
            return [(dim, None) for dim in dims]
        out: list[tuple[int, Tensor | None]] = []
        for dim in dims:
            n = param.shape[dim]
            scale = param.new_full((n,), math.sqrt(2 * n), dtype=torch.promote_types(param.dtype, torch.float32))
            scale[0] = math.sqrt(4 * n)
            scale = scale / (2 * n) if h["norm"] == "forward" else scale
            out.append((dim, scale.view(-1, *[1] * (param.dim() - dim - 1))))
        return out

    def keeper(self, index: int, var: Var, default: Tensor) -> Tensor:
        """Each tensor's own parameter."""
        return var.params[index]
