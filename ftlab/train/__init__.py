"""Training: optimizers, schedules, and the one loop."""

from ftlab.train.loop import History, NonFiniteLoss, TrainConfig, train

__all__ = ["History", "NonFiniteLoss", "TrainConfig", "train"]
