"""RankAgreement: on two processes, and with a second process that is made up."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.lightning.problems import Model, m, network, trainer
from tz_lightning import RankAgreement
from tz_lightning.callbacks.rank_agreement import RankDisagreement, bit_sum, replicated

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import warnings
warnings.simplefilter("ignore")
from tests.lightning.problems import Model, m, trainer
from tz_lightning import RankAgreement

class Drifts(Model):
    def on_train_batch_start(self, batch, batch_idx):
        if self.trainer.global_rank == 1 and batch_idx == 2:
            self.net[2].bias.data += 1e-9

model = Drifts(lambda: [m.Adam(), m.LR(0.1)])
trainer(RankAgreement(every_n_steps=1), strategy="ddp", devices=2, use_distributed_sampler=False).fit(model)
"""


@pytest.mark.slow
def test_two_processes_that_drift_apart(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    # they agreed before the first step, and after the first two
    assert "after step 3, net.2.bias is not the same on all processes: rank 1 and rank 0 differ by up to 1e-09" in (
        done.stderr
    ), done.stderr[-3000:]
    assert "(1 of 4 tensors differ)" in done.stderr


class Pair:
    """A strategy of two processes; the other one has the same parameters but for what ``change`` does."""

    root_device = torch.device("cpu")

    def __init__(self, other):
        self.other, self.asked = other, 0

    def all_gather(self, tensor):
        self.asked += 1
        theirs = replicated(self.other)
        if tensor.dtype == torch.int64:
            return torch.stack([tensor, torch.stack([bit_sum(t) for t in theirs.values()])])
        return torch.stack([tensor, next(t.detach() for t in theirs.values() if t.shape == tensor.shape)])


@pytest.mark.parametrize("change", [0.0, 1e-16, -0.0])
def test_bits_are_compared(change):
    ours, theirs = network(), network()
    with torch.no_grad():
        ours[2].bias.zero_()
        theirs[2].bias.fill_(change)
    run = SimpleNamespace(world_size=2, strategy=Pair(theirs))
    check = RankAgreement()
    if str(change) == "0.0":
        check.on_train_start(run, ours)
        assert run.strategy.asked == 1
        return
    with pytest.raises(
        RankDisagreement, match=rf"before the first step, 2.bias .* by up to {abs(change):.3g} \(1 of 4"
    ):
        check.on_train_start(run, ours)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex128]
)
def test_sums_of_bits(dtype):
    a = torch.arange(12).to(dtype).reshape(3, 4)
    b = a.clone()
    assert bit_sum(a) == bit_sum(b) == bit_sum(a.T.contiguous().T)
    b[1, 2] = 0
    assert bit_sum(a) != bit_sum(b)
    assert bit_sum(a.new_zeros(0)) == 0


def test_one_process_checks_nothing():
    class Never(RankAgreement):
        def _check(self, trainer, module, when):
            super()._check(SimpleNamespace(world_size=trainer.world_size), None, when)

    run = trainer(Never(1), epochs=1)
    run.fit(Model(lambda: [m.LR(0.1)]))
    assert run.global_step == 4


def test_a_wrong_interval_is_refused():
    with pytest.raises(ValueError, match=r"RankAgreement\(every_n_steps=0\)"):
        RankAgreement(0)
