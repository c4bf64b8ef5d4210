"""`ftlab bench align`: PPO and DPO by hand against the straightforward way and TRL's `DPOTrainer`, on the CPU.

All in float32, from the shipped assistant at the temperature of Lab 10, on the same prompts and pairs; runs take turns.

1. Rollouts: tokens written per second, ours against `model.generate` on the same left-padded prompts, at the same temperature
   (each draws its own answers, so tokens are counted, not answers).
2. Whole iterations of PPO: tokens of answers per second. The peer is the loop that one would write: the policy is a
   LlamaForCausalLM under autograd, answers by `model.generate`, logits of the whole text, a value head on the last hidden
   state; rewards, advantages, losses, minibatches and optimizer are ours on both sides, the reward model is the same.
3. DPO: pairs per second against DPOTrainer, the reference's log-probabilities computed beforehand in both, same batch size.

As in the other benches ours takes denormal numbers as zeros (`ftlab.train.denormals`), the peers run as the processor comes.
"""

import copy
import functools
import tempfile
import time

import torch
from torch import nn

from ftlab import profile
from ftlab.align import annotators, dpo, judge, pairs, ppo, reward, with_trl
from ftlab.bench.common import paired, take_turns
from ftlab.library_messages import quiet_libraries
from ftlab.model import load, to_hf
from ftlab.train import TrainConfig, train
from ftlab.train.denormals import flushed_denormals
from ftlab.world import World, tasks

LOOP, TRL = "a loop over model.generate", "TRL DPOTrainer"


def run(report=None, quick=False):
    """All rows; some ten minutes on two cores."""
    model, tokenizer = load(annotators.MODEL)
    start = ppo.sharpened(model, annotators.TEMPERATURE)
    with quiet_libraries():
        rows = rollouts(start, tokenizer, report, quick) + preferences(start, tokenizer, report, quick)
    return {"machine": profile.machine(measure=not quick), "rows": rows}


# -- PPO

def rollouts(start, tokenizer, report=None, quick=False):
    """Rows of rollouts and of whole iterations."""
    count, rounds = (4, 2) if quick else (32, 7)
    config = ppo.PPOConfig(iterations=1, answers=count, minibatch=count, lr=1e-5, max_new_tokens=12 if quick else 140)
    asked = tasks.make(World("rich"), "write", count, "bench")
    prompts = judge.asked(asked, tokenizer)
    scored = judge.by_model(reward.RewardModel(copy.deepcopy(start)))
    theirs = to_hf(start)
    runners = {"ours": functools.partial(_our_answers, start, tokenizer, prompts, config),
               LOOP: functools.partial(_their_answers, theirs, tokenizer, prompts, config)}
    take_turns(runners, 1)  # to warm up
    written = take_turns(runners, rounds, report, "rollouts, tokens/s, round")
    runners = {"ours": functools.partial(_our_iteration, start, tokenizer, asked, prompts, scored, config),
               LOOP: functools.partial(_their_iteration, start, tokenizer, asked, prompts, scored, config)}
    whole = take_turns(runners, rounds, report, "PPO iterations, tokens/s, round")
    return [paired(f"align, PPO rollouts, {count} answers, against {LOOP}", written["ours"], written[LOOP], "tokens/s"),
            paired(f"align, PPO iteration, {count} answers, against {LOOP}", whole["ours"], whole[LOOP], "tokens/s")]


def _our_answers(model, tokenizer, prompts, config):
    began = time.perf_counter()
    with flushed_denormals():
        rollout = ppo.collect(model, tokenizer, prompts, prompts, config, 0)
    return int(rollout.mask.sum()) / (time.perf_counter() - began)


def _their_answers(theirs, tokenizer, prompts, config):
    began = time.perf_counter()
    rollout = _their_rollout(theirs, tokenizer, prompts, prompts, config)
    return int(rollout.mask.sum()) / (time.perf_counter() - began)


def _their_rollout(theirs, tokenizer, asked, prompts, config):
    """Answers by model.generate, as a Rollout."""
    longest, pad, eos = max(map(len, prompts)), tokenizer.pad_id, tokenizer.eos_id
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    torch.manual_seed(0)
    out = theirs.generate(ids, attention_mask=seen, max_new_tokens=config.max_new_tokens, do_sample=True, temperature=1.0,
                          top_k=0, pad_token_id=pad, eos_token_id=eos)[:, longest:].tolist()
    new = [row[:row.index(eos)] if eos in row else row for row in out]
    ended = [eos in row for row in out]
    rows = [(p + answer + [eos] * end, len(p)) for p, answer, end in zip(prompts, new, ended, strict=True)]
    batch = pairs.pair_batch(rows, [], pad)
    return ppo.Rollout(asked, [tokenizer.decode(a) for a in new], rows, torch.tensor(ended), batch.ids, batch.mask)


def _our_iteration(start, tokenizer, asked, prompts, scored, config):
    lengths = []
    began = time.perf_counter()
    ppo.ppo(start, tokenizer, asked, prompts, scored, config,
            lambda rollout: lengths.append(int(rollout.mask.sum())) or {})
    return sum(lengths) / (time.perf_counter() - began)


def _their_iteration(start, tokenizer, asked, prompts, scored, config):
    actor, reference = _TheirActor(start), to_hf(start)
    optimizer = torch.optim.AdamW(actor.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    began = time.perf_counter()
    rollout = _their_rollout(actor.policy, tokenizer, asked, prompts, config)
    scores = scored(rollout)
    with torch.no_grad():
        logp, values, _ = actor(rollout.ids, rollout.mask)
        ref_logp = _their_logprobs(reference(rollout.ids).logits, rollout.ids, rollout.mask)
    rewards = ppo.token_rewards(scores, logp, ref_logp, rollout.mask, config.kl_coef)
    advantages, returns = ppo.gae(rewards, values, rollout.mask, config.gamma, config.lam)
    ppo.update(actor, optimizer, rollout, logp, values, ppo.whitened(advantages, rollout.mask), returns, config)
    return int(rollout.mask.sum()) / (time.perf_counter() - began)


class _TheirActor(nn.Module):
    """The policy as a LlamaForCausalLM with a value head; called as `ActorCritic` is."""

    def __init__(self, start):
        super().__init__()
        self.policy, self.value_head = to_hf(start), nn.Linear(start.config.hidden_size, 1)

    def forward(self, ids, mask):
        out = self.policy(ids, output_hidden_states=True)
        values = self.value_head(out.hidden_states[-1])[:, :-1, 0] * mask
        return _their_logprobs(out.logits, ids, mask), values, None


def _their_logprobs(logits, ids, mask):
    return logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * mask


# -- DPO

def preferences(start, tokenizer, report=None, quick=False):
    """The row of DPO."""
    size, steps, warm, rounds = (4, 2, 1, 2) if quick else (16, 8, 2, 6)
    some = annotators.ranked(annotators.comparisons("train")[:(steps + warm) * size * 2])[:(steps + warm) * size]
    with tempfile.TemporaryDirectory() as folder:
        results = take_turns({"ours": functools.partial(_our_dpo, start, tokenizer, some, size, steps, warm),
                              TRL: functools.partial(_their_dpo, start, tokenizer, some, size, steps, warm, folder)},
                             rounds, report, "DPO, pairs/s, round")
    return [paired(f"align, DPO, {size} pairs a batch, against {TRL}", results["ours"], results[TRL], "pairs/s")]


def _our_dpo(start, tokenizer, some, size, steps, warm):
    rows = pairs.pair_rows(some, tokenizer)
    known = [pairs.logprobs_of(start, side, tokenizer) for side in rows]
    batches, marks = pairs.PairBatches(*rows, size, tokenizer, reference=known), {}

    def clock(event):
        if event["kind"] == "step":
            marks[event["step"]] = time.perf_counter()

    train(copy.deepcopy(start), batches, TrainConfig(warm + steps, lr=1e-5), dpo.pair_loss(), callbacks=[clock])
    return steps * size / (marks[warm + steps] - marks[warm])


def _their_dpo(start, tokenizer, some, size, steps, warm, folder):
    from transformers import TrainerCallback

    marks = {}

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **rest):
            marks[state.global_step] = time.perf_counter()

    with with_trl.quiet():
        trainer = with_trl.dpo_trainer(start, tokenizer, some, warm + steps, folder, lr=1e-5, pairs_per_batch=size)
        trainer.add_callback(Clock())
        trainer.train()
    return steps * size / (marks[warm + steps] - marks[warm])
