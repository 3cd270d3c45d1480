"""What the buckets of a segment come together for at the end of a pass: totals, modules that are no rules, dice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed import Reductions, local, placed
from ..lang.graph import Kind, Number, Value
from ..lang.ops import AMAX, CALL, CHILD, RANDOM, TOTAL
from ..lang.rule import Call, Rule
from .runner import Runner
from .surroundings import Step


def meet(k: int, runners: Sequence[Runner], step: Step | None, segment: Any) -> None:
    """What happens between pass ``k`` and the next that all buckets have a part in.

    Args:
        k: the pass.
        runners: those that have one.
        step: the step; None where no module but rules is part of it.
        segment: whose buckets they run.
    """
    totals = [(r, n) for r in runners for n in r.plan.passes[k].totals]
    if totals:
        reductions = segment.home.distributed if segment.home is not None else Reductions()
        for key in dict.fromkeys(n.attr for _, n in totals):
            parts = [(r, n) for r, n in totals if n.attr == key]
            value = _combine(parts[0][1], [_partial(r, n) for r, n in parts], reductions)
            for r, n in parts:
                r.set_numbers(n, value)
    shared = [(r, n) for r in runners for n in r.plan.passes[k].opaque if n.op is not CALL]
    for key in dict.fromkeys(n.attr.key for _, n in shared):
        parts = [(r, n) for r, n in shared if n.attr.key == key]
        if parts[0][1].op is CHILD:
            assert step is not None
            _run_child(parts, step)
        else:
            assert parts[0][1].op is RANDOM
            _throw(parts, segment.rules[parts[0][1].attr.rule])


def add_up(k: int, runner: Runner) -> None:
    """Make what a pass has reduced of this rank's parts that of whole tensors.

    Args:
        k: the pass.
        runner: it has a bucket that is spread over ranks.
    """
    bucket, here = runner.bucket, runner.plan.passes[k]
    shards = bucket.shards
    assert shards is not None
    for largest in (False, True):
        numbers: list[Tensor] = []
        meshes: list[tuple[int, ...]] = []
        taken: list[tuple[Value, Tensor]] = []
        for node in here.reductions:
            if (node.op is AMAX) != largest:
                continue
            if node.kind is Kind.SLICE:
                assert node.dims is not None
                numbers += runner.slices(node)
                meshes += [shards.cutting(node.dims.of(p.shape)) for p in bucket.whole]
                continue
            taken.append((node, torch.as_tensor(runner.numbers(node), device=bucket.data[0].device).clone()))
            numbers += taken[-1][1].unbind()
            dims = node.inputs[0].dims  # slices are the same on ranks that hold parts of each
            kept = [set(range(p.ndim)) - set(dims.of(p.shape) if dims is not None else ()) for p in bucket.whole]
            meshes += [shards.cutting(list(d)) for d in kept]
        shards.reduce(numbers, meshes, largest=largest)
        for node, values in taken:
            runner.set_numbers(node, values if values.device.type != "cpu" else values.numpy())


Parts = Sequence[tuple[Runner, Value]]


def _partial(runner: Runner, node: Value) -> Any:
    """A total over one bucket."""
    values = runner.numbers(node.inputs[0])
    return values.sum() if node.op is TOTAL else values.max()


def _combine(node: Value, parts: list[Any], reductions: Reductions) -> Any:
    """A total over all buckets and ranks."""
    tensors = [p for p in parts if isinstance(p, Tensor)]
    if not tensors:
        value: Any = sum(parts) if node.op is TOTAL else max(parts)
        if type(reductions) is Reductions:
            return value
        tensors = parts = [torch.tensor(value, dtype=torch.float64, device="cpu")]
    like = tensors[0]
    parts = [torch.as_tensor(p, dtype=like.dtype, device=like.device) for p in parts]
    value = parts[0]
    for other in parts[1:]:
        value = value + other if node.op is TOTAL else torch.maximum(value, other)
    return reductions.sum_scalar(value) if node.op is TOTAL else reductions.max_scalar(value)


def _run_child(parts: Parts, step: Step) -> None:
    """A module that is no rule, on the tensors of all buckets."""
    inputs: dict[int, Tensor] = {}
    for r, node in parts:
        bucket, tensors = r.bucket, r.whole(node.inputs[0])
        shards = bucket.shards
        if shards is not None:
            tensors = [shards.join(t, p.shape) for t, p in zip(tensors, bucket.whole, strict=True)]
        inputs.update(zip(bucket.indices, tensors, strict=True))
    result = step.run_child(parts[0][1].attr.fn, inputs)
    for r, node in parts:
        r.set_result(node, list(map(local, placed([result[i] for i in r.bucket.indices], r.bucket.whole))))


def _throw(parts: Parts, rule: Rule) -> None:
    """Random values, drawn in the order of the parameters whatever their buckets are.

    Settings of groups may decide whether a bucket has one for each tensor or the one that is for all.
    """
    places = sorted((i, j, r, node) for r, node in parts for j, i in enumerate(r.bucket.indices))
    drawn: dict[int, list[Any]] = {id(r): [None] * len(r.bucket.data) for r, _ in parts}
    for_all: Tensor | None = None
    for _, j, r, node in places:
        call: Call = node.attr
        if node.kind is Kind.GLOBAL and for_all is not None:
            continue
        numbers = [float(r.argument(a)) if isinstance(a, Number) else float(a) for a in node.args]
        like, shards = r.bucket.data[j], r.bucket.shards
        if node.kind is not Kind.ELEMENT:
            out = torch.empty((), dtype=torch.float32, device=like.device)  # whatever the default is
        elif shards is None:
            out = torch.empty_like(like)
        else:  # all of it on every rank: the values are those of one process, and the generators stay in step
            out = torch.empty(r.bucket.whole[j].shape, dtype=like.dtype, device=like.device)
        getattr(out, call.fn)(*numbers, generator=rule.generator(like.device))
        if shards is not None and node.kind is Kind.ELEMENT:
            out = shards.part(out)
        if node.kind is Kind.GLOBAL:
            for_all = out
        drawn[id(r)][j] = out
    for r, node in parts:
        if node.kind is Kind.ELEMENT:
            r.set_result(node, drawn[id(r)])
        else:
            r.set_numbers(node, for_all if node.kind is Kind.GLOBAL else torch.stack(drawn[id(r)]))
