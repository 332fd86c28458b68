"""Training: one loop for every loss, data set and network."""

from ctm.training.loop import from_scratch, train, training_steps
from ctm.training.state import History, State, rate

__all__ = ["History", "State", "from_scratch", "rate", "train", "training_steps"]
