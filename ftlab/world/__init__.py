"""The micro-world: stories with known facts and known probability, an oracle that judges any text, and tasks."""

from ftlab.world import oracle, tasks
from ftlab.world.grammar import Facts, Story, World

__all__ = ["Facts", "Story", "World", "oracle", "tasks"]
