"""Fine-tuning: the methods by name, and supervised fine-tuning (`ftlab.tune.sft`, which needs torch)."""

from ftlab.tune.methods import METHODS, Method, attach

__all__ = ["METHODS", "Method", "attach"]
