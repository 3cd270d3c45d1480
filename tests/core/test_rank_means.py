"""Two processes, each with half of a batch, take the steps of one with all of it."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import torchzero_core as tz
from torchzero_core.distributed import RankMeans, processes

m = tz.m
F64 = torch.float64
#: Chains that evaluate the loss, with how near two processes are to one.
CHAINS = {
    "lbfgs": (lambda: [m.LBFGS(), m.StrongWolfe()], 1e-10),
    "backtracking": (lambda: [m.Backtracking()], 1e-12),
    "newton": (lambda: [m.Newton(), m.Backtracking()], 1e-8),
    "trust region": (lambda: [m.TrustCG()], 1e-8),
    "values alone": (lambda: [m.SPSA(seed=0), m.LR(1e-2)], 1e-10),
    "Polyak": (lambda: [m.PolyakStepSize()], 1e-12),
    "times the loss": (lambda: [m.MulByLoss(), m.LR(1e-1)], 1e-12),
    "polynomials": (lambda: [m.HigherOrderNewton(order=2, trust_method="proximal")], 1e-8),
}


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 3, generator=generator, dtype=F64)
    return x, (x.sum(1, keepdim=True) - 0.5).tanh()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).to(F64)


def trained(chain, rows, wrap=lambda net: net, distributed=None, steps=4):
    """The parameters after some steps on these rows of the data."""
    net = network()
    model, (x, y) = wrap(net), data()
    optimizer = tz.Modular(net.parameters(), *chain())
    if distributed is not None:
        optimizer.distributed = distributed

    def closure(backward=True):
        loss = nn.functional.mse_loss(model(x[rows]), y[rows])
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def everywhere(vector):
    """Whether all ranks have the same, to the last bit."""
    found = [torch.empty_like(vector) for _ in range(dist.get_world_size())]
    dist.all_gather(found, vector)
    return all(torch.equal(one, found[0]) for one in found)


def compare(rank):
    """What each of two ranks looks at; raises where something is not as it should be."""
    assert processes() == 2
    rows = slice(8 * rank, 8 * rank + 8)
    for name, (chain, near) in CHAINS.items():
        found = trained(chain, rows, DistributedDataParallel, RankMeans())
        assert everywhere(found), name
        torch.testing.assert_close(found, trained(chain, slice(None)), rtol=near, atol=near, msg=name)
        assert not everywhere(trained(chain, rows)), name  # so that the test sees a difference
    for chain in (lambda: [m.SPSA(), m.LR(1e-2)], lambda: [m.Dropout(0.5), m.LR(1e-2)]):
        torch.manual_seed(rank)  # no seed of their own: they agree on one
        assert everywhere(trained(chain, slice(None), distributed=RankMeans()))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trained(lambda: [m.Dropout(0.5), m.LR(1e-2)], slice(None))
        trained(lambda: [m.Dropout(0.5, seed=1), m.LR(1e-2)], slice(None))
    (said,) = [str(w.message) for w in seen if "drift apart" in str(w.message)]
    assert "Dropout draws random numbers, and the 2 processes may draw different ones" in said and "seed=0" in said
    group = dist.new_group([0, 1])
    assert RankMeans(group).agree(rank + 5) == 5 and RankMeans(group).mean_loss(torch.tensor(rank + 1.0)) == 1.5
    if rank == 0:  # alone: nothing is asked of the others
        optimizer = tz.Modular(network().parameters(), m.Dropout(0.5), m.LR(1e-2))
        optimizer.distributed = RankMeans()
        assert "Dropout" in optimizer.summary()


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_two_processes_are_one(tmp_path):
    root = Path(__file__).parents[2]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.core.test_rank_means", str(rank), str(tmp_path / "meeting")],
            cwd=root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [out for out, process in zip(outputs, processes, strict=True) if process.returncode] == []


def test_one_process_knows_of_no_other():
    assert processes() == 1


if __name__ == "__main__":
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=int(sys.argv[1]), world_size=2)
    compare(int(sys.argv[1]))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # torch may abort when the interpreter takes down the threads of a process group
