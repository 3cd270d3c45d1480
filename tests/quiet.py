"""Lightning's own warnings are not ours; everything else stays an error."""

import warnings

from jsonargparse._deprecated import JsonargparseDeprecationWarning

OWN = (
    "The .*dataloader.* does not have many workers",
    "You defined a `validation_step` but have no `val_dataloader`",
    "The number of training batches",
    "`isinstance.treespec, LeafSpec",
    "Checkpoint directory .* exists and is not empty",
    "You're resuming from a checkpoint that ended before the epoch ended",
    "Found .* module.s. in eval mode",
    "`Trainer.fit` stopped",
    "No seed found",
    "The `srun` command",
    "Starting from v1.9.0, `tensorboardX` has been removed",
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
)


def ignore_lightning():
    """Ignore what Lightning says about its own set-up; call it inside ``warnings.catch_warnings()``."""
    for message in OWN:
        warnings.filterwarnings("ignore", message)
    # Lightning calls what newer releases of jsonargparse have renamed
    warnings.filterwarnings("ignore", category=JsonargparseDeprecationWarning)
