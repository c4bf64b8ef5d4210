"""Measurements against peers in the same run: `ftlab bench train|generate|tune|align|widgets|import|grade`.

Each module has `run(report=None, quick=False) -> {"machine": {...}, "rows": [...]}`. report(text) is told of progress.
A row holds `name, ours, unit` and either `peer, ratio` (above 1: ours is better) or `limit` (what `ours` must keep to).
Rows with neither only inform. quick=True shrinks everything, so that a test can run it; its numbers mean nothing.

Runs of ours and of the peers take turns, round by round, and the median of the rounds counts: what else the machine
does then falls on all alike.
"""
