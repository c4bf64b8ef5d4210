"""Training: optimizers, schedules, the one loop; a range test before it, and what to do when it diverges."""

from ftlab.train.loop import History, NonFiniteLoss, TrainConfig, train
from ftlab.train.rates import RangeTest, range_test
from ftlab.train.recovery import Diverged, Recovery, StopOnDivergence, divergence, train_safely

__all__ = ["Diverged", "History", "NonFiniteLoss", "RangeTest", "Recovery", "StopOnDivergence", "TrainConfig",
           "divergence", "range_test", "train", "train_safely"]
