"""Proximal policy optimisation for a language model, from top to bottom (Schulman et al. 2017; Ziegler et al. 2019).

The model is a policy: the state is the text so far, an action is a token, an episode one answer. An iteration
1. writes an answer to each of some prompts (`collect`), and has each answer scored;
2. spreads the score over the tokens: a penalty for each step away from the reference, the score on the last token
   (`token_rewards`);
3. asks of each token whether the answer went better than expected from there on (`gae`);
4. makes what went better likelier, but not by much (`policy_loss`), and mends the expectations (`value_loss`).

Left out: several answers to a prompt, reward shaping, a separate value model (the value head stands on the policy's own
last hidden state), resuming a run. Shapes: B answers, T − 1 places; place t decides on token t + 1.
"""

import copy
import dataclasses
import math
import random
import time

import torch
from torch import nn

from ftlab.align.pairs import pair_batch, token_logprobs
from ftlab.errors import UsageError
from ftlab.model import backprop, generate
from ftlab.numbers import check_real, check_whole
from ftlab.train.allocator import keep_freed_memory
from ftlab.train.denormals import flushed_denormals
from ftlab.train.loop import tell


@dataclasses.dataclass
class PPOConfig:
    """What fixes a run. Rates are AdamW's; lengths are in tokens, kl_* in nats.

    kl_coef: β, the price of a nat. target_kl: nats an answer that β is steered to (Ziegler et al. 2019, section 2.2; None:
    β stays). stop_kl: nats a token by which the policy may have moved within an iteration before its remaining
    minibatches are left out (None: never). no_end_penalty: taken from the score of an answer that did not end.
    """

    iterations: int = 40
    answers: int = 64  # per iteration
    minibatch: int = 32
    epochs: int = 2
    lr: float = 1e-3
    value_coef: float = 0.5
    kl_coef: float = 0.1
    target_kl: float | None = None
    stop_kl: float | None = None
    clip: float = 0.2
    value_clip: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    whiten: bool = True
    max_new_tokens: int = 140
    no_end_penalty: float = 2.0
    max_grad_norm: float = 1.0
    seed: int = 0

    def check(self):
        """Raise ValueError where a number cannot be meant."""
        for name in ("answers", "minibatch", "epochs", "max_new_tokens"):
            check_whole(name, getattr(self, name))
        check_whole("iterations", self.iterations, least=0)
        for name in ("lr", "value_coef", "kl_coef", "no_end_penalty"):
            check_real(name, getattr(self, name), least=0)
        for name in ("clip", "value_clip", "max_grad_norm"):
            check_real(name, getattr(self, name), above=0)
        for name in ("gamma", "lam"):
            check_real(name, getattr(self, name), least=0, most=1)
        for name in ("target_kl", "stop_kl"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), above=0)


class ActorCritic(nn.Module):
    """A policy (a Transformer), and a head that guesses from its last hidden state what the rest of the answer will earn."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy
        self.value_head = nn.Linear(policy.config.hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, ids, mask):
        """(log-probabilities of the tokens written, values before each), (B, T − 1) both, 0 where mask is false; and the
        mean entropy of the choices in nats."""
        states = backprop.hidden(self.policy, ids)[:, :-1][mask]  # (n, C)
        logp = self.policy.lm_head(states).log_softmax(-1)  # (n, V)
        entropy = -(logp.detach().exp() * logp.detach()).sum(-1).mean()
        chosen = logp.gather(-1, ids[:, 1:][mask][:, None])[:, 0]
        return scattered(chosen, mask), scattered(self.value_head(states)[:, 0], mask), entropy


def scattered(values, mask):
    """values (n,) at the true places of mask (B, T − 1), 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)


@dataclasses.dataclass
class Rollout:
    """Answers of one iteration: prompts as they were given, texts, rows (ids, length of the prompt), which ended by
    themselves; ids (B, T) and mask (B, T − 1) as tensors."""

    prompts: list
    texts: list
    rows: list
    ended: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor


def sharpened(model, temperature):
    """A copy of a Transformer whose own probabilities are those of `model` at a temperature: its last norm's weight is
    divided by it, and so are all logits. What is learned from answers at a temperature is learned about that policy."""
    check_real("temperature", temperature, above=0)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.norm.weight /= temperature
    if not copied.norm.weight.isfinite().all():
        raise ValueError(f"temperature {temperature!r} is too near 0: divided by it, the model's logits are infinite")
    return copied


# -- the four steps

def collect(policy, tokenizer, prompts, prompt_rows, config, seed):
    """One answer to each prompt, drawn at temperature 1: a Rollout. prompt_rows: the ids of each prompt."""
    new = generate(policy, prompt_rows, config.max_new_tokens, 1.0, eos_id=tokenizer.eos_id, seed=seed)
    ended = [len(answer) < config.max_new_tokens for answer in new]
    rows = [(prompt + answer + [tokenizer.eos_id] * end, len(prompt))
            for prompt, answer, end in zip(prompt_rows, new, ended, strict=True)]
    batch = pair_batch(rows, [], tokenizer.pad_id)
    texts = [tokenizer.decode(answer) for answer in new]
    return Rollout(prompts, texts, rows, torch.tensor(ended), batch.ids, batch.mask)


def token_rewards(scores, logp, ref_logp, mask, kl_coef):
    """−β (log π − log π_ref) for each token, and the answer's score (B,) besides on its last one: (B, T − 1)."""
    rewards = -kl_coef * (logp - ref_logp) * mask
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)  # the last place of each answer
    rewards[torch.arange(len(mask)), last] += scores
    return rewards


def gae(rewards, values, mask, gamma=1.0, lam=0.95):
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16): (advantages, returns), (B, T − 1) both.

    δ_t = r_t + γ V_{t+1} − V_t, A_t = δ_t + γ λ A_{t+1}, with V = A = 0 behind the last token; returns are A + V.
    """
    advantages = torch.zeros_like(rewards)
    following = ahead = torch.zeros(len(rewards))  # V and A of the place behind
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        ahead = (delta + gamma * lam * ahead) * mask[:, t]
        following = values[:, t] * mask[:, t]
        advantages[:, t] = ahead
    return advantages, (advantages + values) * mask


def constant(x, mask):
    """Whether x is the same everywhere in the mask, but for rounding (a relative spread of 10⁻⁶). Raises UsageError where x
    holds NaN or infinity there."""
    inside = x[mask]
    if not inside.isfinite().all():
        raise UsageError("the advantages hold NaN or infinity: look at the rewards and the values they were made of")
    return len(inside) < 2 or bool(inside.max() - inside.min() <= 1e-6 * inside.abs().max())


def whitened(x, mask):
    """x with mean 0 and standard deviation 1 over the mask, 0 outside. Raises UsageError where x is the same everywhere in
    the mask (`constant`): what is left of it is rounding, and would be blown up to a spread of 1."""
    if constant(x, mask):
        raise UsageError("all values under the mask are equal (or there are fewer than two), so they have no spread to divide "
                         "by: give answers whose rewards differ, or leave whitening out")
    mean, spread = x[mask].mean(), x[mask].std()
    return (x - mean) / (spread + 1e-8) * mask


def policy_loss(logp, old_logp, advantages, mask, clip=0.2):
    """The clipped objective (Schulman et al. 2017, eq. 7), negated, the mean over tokens; and its metrics.

    ratio = π / π_old. Beyond 1 ± clip nothing more is to be gained, so nothing pulls the policy there.
    Metrics: "clipped" (share of tokens), "moved" (estimate of KL(π_old ‖ π) in nats a token, (ratio − 1) − log ratio).
    """
    log_ratio = (logp - old_logp)[mask]
    ratio, advantage = log_ratio.exp(), advantages[mask]
    objective = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    with torch.no_grad():
        metrics = {"clipped": ((ratio - 1).abs() > clip).float().mean().item(),
                   "moved": (ratio - 1 - log_ratio).mean().item()}
    return -objective.mean(), metrics


def value_loss(values, old_values, returns, mask, clip=0.2):
    """Half the squared error of the values, clipped about the old ones in the same manner; the mean over tokens."""
    values, old_values, returns = values[mask], old_values[mask], returns[mask]
    near = old_values + (values - old_values).clamp(-clip, clip)
    loss = 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2).mean()
    return loss, {"value_error": (values.detach() - returns).square().mean().sqrt().item()}


# -- the loop

def ppo(start, tokenizer, prompts, prompt_rows, reward, config, evaluate=None, callbacks=(), reference=None):
    """Train a copy of the Transformer `start` to earn `reward`; returns (policy, list of metrics, one dict an iteration).

    prompts: anything, one a row of prompt_rows (lists of ids); an iteration draws `config.answers` of them.
    reward(Rollout) -> (B,) scores. evaluate(Rollout) -> dict of numbers, whatever else is to be known of the answers.
    reference: the model that it may not move far from, by default `start`. callbacks get events as `train` sends them,
    with "metrics" and a "sample" text. Metrics: "reward" (mean score), "kl" (nats an answer), "length" (tokens), …
    """
    config.check()
    if len(prompts) < config.answers:
        raise UsageError(f"{len(prompts)} prompts are too few for {config.answers} answers an iteration: give more prompts, or "
                         "ask for fewer answers")
    keep_freed_memory()
    torch.manual_seed(config.seed)
    actor, reference = ActorCritic(copy.deepcopy(start)), reference or start
    optimizer = torch.optim.AdamW(actor.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    draw, kl_coef, history, began = random.Random(config.seed), config.kl_coef, [], time.perf_counter()
    tell(callbacks, kind="start", step=0, steps=config.iterations, metrics={})
    with flushed_denormals():
        for iteration in range(1, config.iterations + 1):
            chosen = draw.sample(range(len(prompts)), config.answers)
            rollout = collect(actor.policy, tokenizer, [prompts[i] for i in chosen], [prompt_rows[i] for i in chosen],
                              config, draw.getrandbits(31))
            scores = _checked(reward(rollout), rollout) - config.no_end_penalty * ~rollout.ended
            with torch.no_grad():
                logp, values, entropy = actor(rollout.ids, rollout.mask)
                ref_logp = token_logprobs(reference, rollout.ids, rollout.mask)
            rewards = token_rewards(scores, logp, ref_logp, rollout.mask, kl_coef)
            advantages, returns = gae(rewards, values, rollout.mask, config.gamma, config.lam)
            if config.whiten:  # where no answer did better than another, there is nothing to be learned but values
                same = constant(advantages, rollout.mask)
                advantages = torch.zeros_like(advantages) if same else whitened(advantages, rollout.mask)
            metrics = update(actor, optimizer, rollout, logp, values, advantages, returns, config)
            kl = (logp - ref_logp).sum(1).mean().item()
            history.append({"step": iteration, "reward": scores.mean().item(), "kl": kl, "kl_coef": kl_coef,
                            "length": rollout.mask.sum(1).float().mean().item(), "entropy": entropy.item(), **metrics,
                            **(evaluate(rollout) if evaluate else {})})
            if config.target_kl is not None:
                kl_coef *= 1 + 0.1 * max(-0.2, min(0.2, kl / config.target_kl - 1))
            seconds = time.perf_counter() - began
            tell(callbacks, kind="step", step=iteration, steps=config.iterations, metrics=history[-1],
                 sample=rollout.texts[0], eta_seconds=seconds / iteration * (config.iterations - iteration))
    tell(callbacks, kind="end", step=config.iterations, steps=config.iterations, metrics=history[-1] if history else {})
    return actor.policy.eval(), history


def _checked(scores, rollout):
    """The scores of a reward, float (B,). UsageError where they are not one finite number an answer."""
    scores = torch.as_tensor(scores).float()
    if scores.shape != (len(rollout.rows),) or not scores.isfinite().all():
        raise UsageError(f"the reward gave {tuple(scores.shape)} numbers for {len(rollout.rows)} answers"
                         + ("" if scores.isfinite().all() else ", NaN or infinity among them")
                         + ": it must give one finite number an answer")
    return scores


def update(actor, optimizer, rollout, old_logp, old_values, advantages, returns, config):
    """Some passes over an iteration's answers in minibatches; returns the mean metrics of the steps taken."""
    found, stopped = [], False
    for _ in range(config.epochs):
        order = torch.randperm(len(rollout.ids))
        for part in order.split(config.minibatch):
            longest = max(len(rollout.rows[i][0]) for i in part.tolist())
            ids, mask = rollout.ids[part, :longest], rollout.mask[part, :longest - 1]
            cut = lambda x: x[part, :longest - 1]  # noqa: B023, E731 - used before the loop goes on
            logp, values, _ = actor(ids, mask)
            loss, metrics = policy_loss(logp, cut(old_logp), cut(advantages), mask, config.clip)
            of_values, more = value_loss(values, cut(old_values), cut(returns), mask, config.value_clip)
            if config.stop_kl is not None and metrics["moved"] > config.stop_kl:
                stopped = True
                break
            optimizer.zero_grad(set_to_none=True)
            (loss + config.value_coef * of_values).backward()
            torch.nn.utils.clip_grad_norm_(actor.parameters(), config.max_grad_norm)
            optimizer.step()
            found.append({"policy_loss": loss.item(), **metrics, "value_loss": of_values.item(), **more})
        if stopped:
            break
    means = {name: sum(one[name] for one in found) / len(found) for name in found[0]} if found else {}
    if not all(math.isfinite(value) for value in means.values()):
        raise UsageError(f"the losses are no numbers any more ({means}): try a third of the learning rate")
    return {**means, "updates": len(found)}
