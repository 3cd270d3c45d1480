"""Lists to vectors and back."""

import pytest
import torch

from torchzero_core.linalg import flatten, total_dot, unflatten, unflatten_as

SHAPES = [(3, 2), (), (0,), (1, 4, 1), (5,)]


def make(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=dtype) for s in SHAPES]


def test_round_trip_of_every_shape():
    tensors = make()
    vector = flatten(tensors)
    assert vector.shape == (16,)
    assert torch.equal(vector, torch.cat([t.reshape(-1) for t in tensors]))
    for piece, t in zip(unflatten(vector, tensors), tensors, strict=True):
        assert torch.equal(piece, t)


def test_pieces_are_views():
    tensors = make()
    vector = flatten(tensors)
    pieces = unflatten(vector, tensors)
    pieces[0].zero_()
    assert vector[:6].abs().sum() == 0
    assert all(p.untyped_storage().data_ptr() == vector.untyped_storage().data_ptr() for p in pieces)


def test_one_contiguous_tensor_is_not_copied():
    t = torch.randn(3, 4)
    assert flatten([t]).data_ptr() == t.data_ptr()
    assert flatten([t.t()]).data_ptr() != t.data_ptr()


def test_memory_formats_keep_the_logical_order():
    t = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    vector = flatten([t, torch.ones(1)])
    assert torch.equal(vector[:24], torch.arange(24.0))
    out = torch.zeros(25)
    assert flatten([t, torch.ones(1)], out) is out
    assert torch.equal(out, vector)


def test_mixed_dtypes_take_the_wider_one_and_come_back():
    tensors = [torch.ones(2, dtype=torch.float32), torch.ones(3, dtype=torch.float64)]
    vector = flatten(tensors)
    assert vector.dtype == torch.float64
    assert [t.dtype for t in unflatten_as(vector, tensors)] == [torch.float32, torch.float64]


def test_gradients_do_not_flow():
    p = torch.ones(2, requires_grad=True)
    assert not flatten([p]).requires_grad
    assert not flatten([p, p]).requires_grad


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(2, 8)])
def test_a_vector_of_another_length_is_refused(bad):
    with pytest.raises(ValueError, match="16 elements in all"):
        unflatten(bad, make())


def test_no_tensors():
    with pytest.raises(ValueError, match="no tensors"):
        flatten([])
    assert unflatten(torch.zeros(0), []) == []
    assert total_dot([], []) == 0


def test_total_dot():
    a, b = make(), [t + 1 for t in make()]
    assert torch.allclose(total_dot(a, b), flatten(a) @ flatten(b), rtol=1e-14)
    big = [torch.full((1000,), 100.0, dtype=torch.float16)]
    assert total_dot(big, big) == 1e7  # beyond the range of float16
    t = torch.randn(3, 4, dtype=torch.float64)
    assert torch.allclose(total_dot([t.t()], [t.t()]), (t * t).sum(), rtol=1e-14)
