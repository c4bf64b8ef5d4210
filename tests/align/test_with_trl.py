"""RLOO by TRL on a tiny model: each answer goes to the score with its own task, and what pays becomes likelier."""

import statistics

from ftlab.align import with_trl
from ftlab.world import World, tasks


def test_rloo_learns_what_pays_and_gives_our_model_back(tokenizer, tiny):
    """One letter pays: answers hold more and more of it."""
    start, asked, seen = tiny(), tasks.make(World("small"), "write", 8), []

    def score(task, text):
        seen.append((task.instruction, text))
        return text.count("e") / 4

    policy, happened = with_trl.rloo_with_trl(start, tokenizer, asked, score, 12, answers=32, per_prompt=4, beta=0.0, lr=1e-2,
                                              max_new_tokens=8)
    assert policy.config == start.config and not policy.training
    assert len(happened["rewards"]) == len(happened["losses"]) == 12 and happened["seconds"] > 0
    assert len(seen) == 12 * 32 and {instruction for instruction, _ in seen} == {task.instruction for task in asked}
    for first in range(0, len(seen), 4):  # the answers to one prompt stand together
        assert len({instruction for instruction, _ in seen[first:first + 4]}) == 1
    assert statistics.fmean(happened["rewards"][-3:]) > 1.5 * statistics.fmean(happened["rewards"][:3])
