"""What tests of callbacks look at: a logger in memory, and the hooks of an optimizer."""

from lightning.pytorch.loggers import Logger


class Memory(Logger):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    name, version = "memory", 0

    def log_metrics(self, metrics, step=None):
        self.rows.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def hooks_of(optimizer):
    """How many hooks and watchers hang on an optimizer."""
    watchers = len(getattr(optimizer, "watchers", ()))
    return watchers + len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
