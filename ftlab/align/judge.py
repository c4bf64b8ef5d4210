"""What an aligned policy is worth: its answers under the true utility, beside how far it has moved.

A reward model is what we optimise, the true utility what we wanted; only in a small world can both be read off.
"""

import dataclasses
import statistics

import torch

from ftlab.align.pairs import token_logprobs
from ftlab.align.ppo import PPOConfig, collect
from ftlab.text.examples import Example
from ftlab.text.rows import prompt_rows
from ftlab.text.template import ALPACA_END
from ftlab.world import oracle, tasks


def answer_of(text):
    """What a model wrote, without the mark that ends it."""
    return text.split(ALPACA_END)[0].strip()


def asked(tasks_, tokenizer, template="alpaca"):
    """The ids of each task's prompt, as the policy reads them."""
    return prompt_rows([Example(task.instruction, input=task.input) for task in tasks_], tokenizer, template)


def utility(task, text):
    """The true utility of an answer to a "write" task."""
    return tasks.true_utility(answer_of(text), task.world, task.constraints)


def truth(rollout):
    """{"utility": mean true utility, "valid": share of answers in which every rule of the world holds} of a Rollout whose
    prompts are tasks; what `ppo` takes as evaluate."""
    worth = [utility(task, text) for task, text in zip(rollout.prompts, rollout.texts, strict=True)]
    valid = [oracle.judge(answer_of(text), task.world).every_rule
             for task, text in zip(rollout.prompts, rollout.texts, strict=True)]
    return {"utility": statistics.fmean(worth), "valid": statistics.fmean(valid)}


def true_reward(rollout):
    """The true utility itself as a reward: (B,). What no real project has."""
    return torch.tensor([utility(task, text) for task, text in zip(rollout.prompts, rollout.texts, strict=True)])


def by_model(reward_model):
    """The reward that a RewardModel gives: a function of a Rollout."""
    @torch.no_grad()
    def reward(rollout):
        return reward_model(rollout.ids, rollout.ids.new_tensor([len(row) - 1 for row, _ in rollout.rows]))

    return reward


@torch.no_grad()
def measured(policy, reference, tokenizer, tasks_, seed=0, reward=None, batch_size=128, max_new_tokens=140):
    """What a policy's answers to tasks are, drawn at temperature 1: {"utility", "valid", "kl" (nats an answer, from
    `reference`), "length" (tokens), "ended"}, and "reward" where a function of a Rollout is given; and "texts"."""
    config, found, texts = dataclasses.replace(PPOConfig(), max_new_tokens=max_new_tokens), [], []
    for first in range(0, len(tasks_), batch_size):
        some = tasks_[first:first + batch_size]
        rollout = collect(policy, tokenizer, some, asked(some, tokenizer), config, seed * 1000 + first)
        logp, ref_logp = (token_logprobs(model, rollout.ids, rollout.mask) for model in (policy, reference))
        found.append((len(some), {**truth(rollout), "kl": (logp - ref_logp).sum(1).mean().item(),
                                  "length": rollout.mask.sum(1).float().mean().item(),
                                  "ended": rollout.ended.float().mean().item(),
                                  **({"reward": reward(rollout).mean().item()} if reward else {})}))
        texts += [answer_of(text) for text in rollout.texts]
    total = sum(count for count, _ in found)
    means = {name: sum(count * one[name] for count, one in found) / total for name in found[0][1]}
    return {**means, "texts": texts}
