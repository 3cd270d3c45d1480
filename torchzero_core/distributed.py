"""The one place through which anything asks what the other ranks know.

Whatever a module decides from goes through :class:`Reductions`: the loss a line search compares, gradients that a
module takes itself, inner products and norms over all parameters. Parameters that are spread over ranks themselves
(DTensor) are worked on shard by shard; :class:`Shards` says what has to be added up then, and the engine does that: the
numbers of such parameters that reach :class:`Reductions` are those of all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class Reductions:
    """Does nothing: one process that holds everything. Subclasses talk to the other ranks.

    Example:
        >>> import torch
        >>> Reductions().mean_loss(torch.tensor(2.0))
        tensor(2.)
    """

    def mean_loss(self, loss: Tensor) -> Tensor:
        """The mean of the loss over the ranks that see different data."""
        return loss

    def mean_grads(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The mean over ranks of gradients that a module took itself (those of ``backward`` are reduced by DDP)."""
        return list(grads)

    def gather(self, vector: Tensor) -> tuple[Tensor, int]:
        """The vectors of all shards, one after the other in the same order everywhere, and where one's own starts."""
        return vector, 0

    def sum_scalar(self, value: Tensor) -> Tensor:
        """The sum over shards of an inner product or a squared norm."""
        return value

    def max_scalar(self, value: Tensor) -> Tensor:
        """The largest over shards."""
        return value

    def agree(self, number: int) -> int:
        """What all ranks take for a number that each has drawn."""
        return number


class RankMeans(Reductions):
    """Ranks that hold all parameters each and see different data, as under ``DistributedDataParallel``.

    A chain that evaluates the loss then sees its mean over the ranks, and modules that draw random numbers draw the
    same everywhere. So all ranks take the same steps, those of one process with all of the data in a batch. Gradients
    of ``backward`` are averaged by whoever else does that.

    Args:
        group: the process group; None for all ranks.

    Example:
        .. code-block:: python

            optimizer = tz.Modular(model.parameters(), tz.m.LBFGS(), tz.m.StrongWolfe())
            optimizer.distributed = RankMeans()
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group

    def _mean(self, value: Tensor) -> Tensor:
        # NCCL takes nothing from the host, where a loss may be that a closure has returned as a number.
        away = not value.is_cuda and dist.get_backend(self.group) == "nccl"
        total = value.detach().cuda() if away else value.detach().clone()
        dist.all_reduce(total, group=self.group)
        return (total / dist.get_world_size(self.group)).to(value.device)

    def mean_loss(self, loss: Tensor) -> Tensor:
        """The mean of the loss over the ranks."""
        return self._mean(loss)

    def mean_grads(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The mean over ranks of gradients that a module took itself."""
        return [self._mean(grad) for grad in grads]

    def agree(self, number: int) -> int:
        """The number of the first rank."""
        numbers = [number]
        source = 0 if self.group is None else dist.get_global_rank(self.group, 0)
        dist.broadcast_object_list(numbers, src=source, group=self.group)
        return numbers[0]


def processes() -> int:
    """How many processes train together, as far as torch knows."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_spread(t: Tensor) -> bool:
    """Whether other ranks have parts of a tensor."""
    return hasattr(t, "device_mesh")


def local(t: Tensor) -> Tensor:
    """This rank's part of a tensor; it shares the memory."""
    return t.to_local() if is_spread(t) else t  # type: ignore[attr-defined]


class Shards:
    """How tensors are spread over ranks, and what that asks of whoever works on one rank's parts.

    Args:
        mesh: the ranks.
        placements: what each dimension of the mesh does to the tensors.

    Raises:
        ValueError: the ranks hold summands of the tensors.
    """

    def __init__(self, mesh: Any, placements: Sequence[Any]) -> None:
        self.mesh, self.placements = mesh, tuple(placements)
        if any(placement.is_partial() for placement in self.placements):
            raise ValueError(
                f"The ranks hold summands of a parameter ({self.placements}), which no step can be made with; "
                "call redistribute() on it first."
            )
        # Whoever has a DTensor has loaded this; everybody else is spared half a second.
        self._tensor: Any = import_module("torch.distributed.tensor")

    # -- parts and wholes --------------------------------------------------------------------------------------------
    def ring(self) -> tuple[Any, ...]:
        """The placements of a tensor that has one dimension more than these, in front."""
        return tuple(_inner(p) if _cuts(p) else p for p in self.placements)

    def without(self, dims: Sequence[int]) -> tuple[Any, ...]:
        """The placements of a tensor that has one number where these have all along some dimensions."""
        return tuple(self._tensor.Replicate() if _cuts(p) and p.dim in dims else p for p in self.placements)

    def join(self, part: Tensor, shape: Sequence[int], placements: Sequence[Any] | None = None) -> Tensor:
        """The tensor of which this rank has a part; it shares the memory.

        Args:
            part: this rank's part.
            shape: the shape of the whole.
            placements: how it is spread, if not as the parameters are.
        """
        stride = torch.empty(tuple(shape), device="meta").stride()
        return self._tensor.DTensor.from_local(
            part,
            self.mesh,
            self.placements if placements is None else placements,
            run_check=False,
            shape=torch.Size(shape),
            stride=stride,
        )

    def gather(self, part: Tensor, shape: Sequence[int]) -> Tensor:
        """All of a tensor of which this rank has a part. Every rank has to ask for it."""
        return self.join(part, shape).full_tensor()  # type: ignore[attr-defined]

    def part(self, whole: Tensor, placements: Sequence[Any] | None = None) -> Tensor:
        """This rank's part of a tensor that each rank has all of, or that is spread in another way."""
        placements = self.placements if placements is None else placements
        if not is_spread(whole):
            whole = self._tensor.distribute_tensor(whole, self.mesh, placements, src_data_rank=None)
        elif tuple(whole.placements) != tuple(placements):  # type: ignore[attr-defined]
            whole = whole.redistribute(self.mesh, placements)  # type: ignore[attr-defined]
        return local(whole)

    # -- numbers -----------------------------------------------------------------------------------------------------
    def cutting(self, dims: Sequence[int] | None = None) -> tuple[int, ...]:
        """The dimensions of the mesh that cut the tensors along some of their dimensions; along any, for None."""
        cuts = enumerate(self.placements)
        return tuple(m for m, p in cuts if _cuts(p) and (dims is None or p.dim in dims))

    def reduce(self, numbers: Sequence[Tensor], meshes: Sequence[Sequence[int]], *, largest: bool = False) -> None:
        """Make numbers of the parts those of the wholes, in place and with one message for each dimension of the mesh.

        Args:
            numbers: any shapes.
            meshes: for each of them, over which dimensions of the mesh.
            largest: take the largest instead of the sum.
        """
        for m in range(len(self.placements)):
            chosen = [t for t, over in zip(numbers, meshes, strict=True) if m in over]
            if not chosen:
                continue
            values = torch.cat([t.reshape(-1).double() for t in chosen])
            values = self._largest(values, m) if largest else self._sum(values, m)
            for t, new in zip(chosen, values.split([t.numel() for t in chosen]), strict=True):
                t.copy_(new.view(t.shape))

    def _sum(self, values: Tensor, m: int) -> Tensor:
        torch.distributed.all_reduce(values, group=self.mesh.get_group(m))
        return values

    def _largest(self, values: Tensor, m: int) -> Tensor:
        nan = values.isnan()  # which a maximum over ranks may lose
        both = torch.cat([values.masked_fill(nan, -torch.inf), nan.double()])
        torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX, group=self.mesh.get_group(m))
        values, nan = both.chunk(2)
        return values.masked_fill(nan > 0, torch.nan)


def _cuts(placement: Any) -> bool:
    return hasattr(placement, "dim") and not placement.is_replicate()


def _inner(placement: Any) -> Any:
    """The same placement where there is one more dimension in front."""
    factor = getattr(placement, "split_factor", None)  # of FSDP on top of tensor parallelism
    cls, dim = type(placement), placement.dim + 1
    return cls(dim) if factor is None else cls(dim, split_factor=factor)


def shards_of(params: Sequence[Tensor]) -> Shards | None:
    """How the first of some tensors is spread; None where it lies on this rank alone."""
    mesh = getattr(params[0], "device_mesh", None)
    return None if mesh is None else Shards(mesh, params[0].placements)  # type: ignore[attr-defined]


def refuse_spread(path: str, params: Sequence[Tensor]) -> None:
    """Refuse parameters of which other ranks have parts.

    Args:
        path: of the module that cannot work with them.
        params: the parameters.

    Raises:
        NotImplementedError: naming the first.
    """
    for i, p in enumerate(params):
        if is_spread(p):
            raise NotImplementedError(
                f"{path} needs each parameter in one piece, and parameter {i} of shape {tuple(p.shape)} is spread over "
                f"ranks (a DTensor, {p.placements}). "  # type: ignore[attr-defined]
                "Keep the parameters whole on every rank, or use modules that take only gradients, such as Adam, Muon, "
                "SOAP or Shampoo."
            )


def wholes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors in one piece. Every rank has to ask for it."""
    return [t.full_tensor() if is_spread(t) else t for t in tensors]  # type: ignore[attr-defined]


def spread(tensors: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors that every rank has in one piece, spread as others are."""
    out = []
    for t, p in zip(tensors, like, strict=True):
        shards = shards_of([p])
        out.append(t if shards is None or is_spread(t) else shards.join(shards.part(t), t.shape))
    return out


def copy_all(to: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    """Copy tensors into others, each rank its parts; torch has no such operation for tensors that are spread."""
    if any(map(is_spread, to)):
        source = placed(source, to)
        to = [local(t) for t in to]
        source = [local(t) for t in source]
    torch._foreach_copy_(list(to), list(source))


def clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of tensors that are laid out as these are, without their graphs; made in one call where torch has one.

    Example:
        >>> import torch
        >>> clones([torch.ones(2, requires_grad=True)])
        [tensor([1., 1.])]
    """
    if len(tensors) < 2 or not all(type(t) is Tensor or type(t) is torch.nn.Parameter for t in tensors):
        return [t.detach().clone() for t in tensors]
    if torch.is_grad_enabled():
        tensors = [t.detach() for t in tensors]
    return list(torch._foreach_clone(list(tensors)))


def placed(tensors: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors spread as others are. Those that are already, and parts of this rank, stay themselves."""
    return [
        t.redistribute(p.device_mesh, p.placements)  # type: ignore[attr-defined]
        if is_spread(t) and tuple(t.placements) != tuple(p.placements)  # type: ignore[attr-defined]
        else t
        for t, p in zip(tensors, like, strict=True)
    ]
