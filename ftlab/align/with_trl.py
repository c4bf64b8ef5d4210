"""The same by TRL's trainers: the one place that knows the arguments of DPOTrainer, RewardTrainer and RLOOTrainer.

TRL has no PPO trainer any more; RLOO (Ahmadian et al. 2024) is its nearest relative: no value model, the baseline of an
answer is the mean score of the other answers to the same prompt. All run in float32, without gradient checkpointing.
"""

import copy
import importlib.metadata
import tempfile
import time

import torch

from ftlab.align import dpo, reward
from ftlab.align.pairs import pair_batch, pair_rows, sequence_logprobs
from ftlab.model.hub import from_hf, hf_state_dict, to_hf
from ftlab.numbers import check_known
from ftlab.text.template import alpaca, alpaca_response
from ftlab.text.tokenizer import BOS
from ftlab.train import optim
from ftlab.tune.with_trl import quiet


def columns(pairs):
    """Pairs in Alpaca's form as [{"prompt", "chosen", "rejected"}, …]; TRL appends the end token."""
    return [{"prompt": BOS + alpaca(pair.prompt), "chosen": alpaca_response(pair.chosen),
             "rejected": alpaca_response(pair.rejected)} for pair in pairs]


def _settings(folder, steps, lr, batch_size, seed):
    """What all three configs share."""
    return dict(output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=lr,
                lr_scheduler_type="linear", warmup_steps=max(1, steps // 10), weight_decay=0.0, max_grad_norm=1.0, seed=seed,
                adam_beta2=0.95, use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, logging_steps=1,
                save_strategy="no", report_to="none", disable_tqdm=True)  # fmt: skip


def _before_1():
    """Whether TRL is older than 1.0, as the one that fits Colab's stack is (0.29)."""
    return importlib.metadata.version("trl").startswith("0.")


def _quietly(trainer):
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def dpo_trainer(model, tokenizer, pairs, steps, folder, beta=0.1, lr=3e-4, pairs_per_batch=32, seed=0, **changes):
    """A `DPOTrainer` for a copy of our `model`, the reference log-probabilities computed beforehand."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(**_settings(folder, steps, lr, pairs_per_batch, seed) | dict(
        beta=beta, max_length=model.config.max_position_embeddings, precompute_ref_log_probs=True) | changes)
    start = to_hf(model).to(model.lm_head.weight.dtype).train()
    # Without a reference, TRL 1 takes the start's own weights; TRL 0.29 would look for a file by the model's name.
    reference = copy.deepcopy(start) if _before_1() else None
    return _quietly(DPOTrainer(start, reference, config, train_dataset=Dataset.from_list(columns(pairs)),
                               processing_class=tokenizer.to_hf()))


def dpo_with_trl(model, tokenizer, pairs, steps, **settings):
    """(policy, {"losses", "seconds"}) of DPO by TRL."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        trainer = dpo_trainer(model, tokenizer, pairs, steps, folder, **settings)
        began = time.perf_counter()
        trainer.train()
        return from_hf(trainer.model), _happened(trainer, began)


def moved(model, seed=1, by=0.02):
    """A copy of `model` with noise of standard deviation `by` on every weight: at its start a policy is its reference, and
    every margin is 0."""
    policy, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn(p.shape, generator=generator).to(p.dtype), alpha=by)
    return policy


def compare_with_trl(model, tokenizer, pairs, beta=dpo.BETA, kind="sigmoid", policy=None):
    """{"loss", "gradient"}: by how much ours and `DPOTrainer`'s differ on `pairs` as one batch, in float64.

    model: the reference; policy: by default `moved(model)`. kind: "sigmoid" or "ipo". "loss" in nats. "gradient": the largest
    difference in any weight's gradient, as a share of the largest gradient.
    """
    policy, model = (copy.deepcopy(m).double() for m in (moved(model) if policy is None else policy, model))
    batch = pair_batch(*pair_rows(pairs, tokenizer), tokenizer.pad_id)
    with torch.no_grad():
        batch.reference = sequence_logprobs(model, batch)
    ours = dpo.pair_loss(beta, kind=kind)(policy, batch)
    ours.backward()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        trainer = dpo_trainer(model, tokenizer, pairs, 1, folder, beta=beta, pairs_per_batch=len(pairs), loss_type=[kind])
        inputs = next(iter(trainer.get_train_dataloader()))
        # It has kept the reference's log-probabilities, as float32: half a thousand nats are rounded to 3e-5.
        with torch.no_grad():
            asked = (inputs,) if _before_1() else (trainer.model, inputs)
            inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = trainer.compute_ref_log_probs(*asked)
        trainer.model.load_state_dict(hf_state_dict(policy), strict=False)
        trainer.model.eval()
        theirs = trainer.compute_loss(trainer.model, inputs)
        theirs.backward()
    peer = {name.removeprefix("model."): p.grad for name, p in trainer.model.named_parameters()}
    own = {name: p.grad for name, p in policy.named_parameters()}
    apart = max((own[name] - gradient).abs().max().item() for name, gradient in peer.items())
    return {"loss": abs(ours.item() - theirs.item()),
            "gradient": apart / max(gradient.abs().max().item() for gradient in peer.values())}


class _Together(torch.optim.Optimizer):
    """Several optimizers as one, which is what a trainer takes. Its groups, and so the schedule's rates, are theirs."""

    def __init__(self, optimizers):
        super().__init__([group for one in optimizers for group in one.param_groups], {})
        self.optimizers = optimizers

    def step(self, closure=None):
        """A step of each."""
        groups = iter(self.param_groups)  # a trainer has put new ones in place of those from the start
        for one in self.optimizers:
            one.param_groups = [next(groups) for _ in one.param_groups]
            one.step()


def reward_trainer(model, tokenizer, pairs, steps, folder, lr=reward.LR, pairs_per_batch=reward.PAIRS_PER_BATCH, seed=0,
                   optimizer="adamw", muon_lr=reward.MUON_LR, **changes):
    """A `RewardTrainer` that starts from the body of our `model` with a score of zero. optimizer: "adamw", which is TRL's, or
    "muon", the one that `reward.train_reward_model` learns by."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    check_known("optimizer", optimizer, optim.KNOWN)
    rows = [{"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]} for row in columns(pairs)]
    config = RewardConfig(**_settings(folder, steps, lr, pairs_per_batch, seed) | dict(
        max_length=model.config.max_position_embeddings) | changes)
    start = reward.to_hf(reward.RewardModel(model), tokenizer.pad_id).train()
    own = _Together(optim.make(start, "muon", lr, muon_lr)) if optimizer == "muon" else None
    return _quietly(RewardTrainer(start, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer.to_hf(),
                                  optimizers=(own, None)))


def reward_with_trl(model, tokenizer, pairs, steps, **settings):
    """(RewardModel, {"losses", "seconds"}) of a reward model by TRL."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        trainer = reward_trainer(model, tokenizer, pairs, steps, folder, **settings)
        began = time.perf_counter()
        trainer.train()
        return reward.from_hf(trainer.model), _happened(trainer, began)


def rloo_with_trl(model, tokenizer, tasks_, score, steps, answers=64, per_prompt=4, beta=0.1, lr=3e-4, seed=0,
                  max_new_tokens=140, callbacks=()):
    """(policy, {"losses", "seconds", "rewards"}) of RLOO by TRL: `answers` a step, `per_prompt` to each prompt.

    score(task, text) -> number is the reward.
    """
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    def scored(prompts, completions, place, **rest):
        return [float(score(tasks_[i], text)) for i, text in zip(place, completions, strict=True)]

    rows = [{"prompt": BOS + alpaca(task.instruction, task.input), "place": i} for i, task in enumerate(tasks_)]
    with quiet(), tempfile.TemporaryDirectory() as folder:
        config = RLOOConfig(**_settings(folder, steps, lr, answers, seed) | dict(
            num_generations=per_prompt, max_completion_length=max_new_tokens, beta=beta, temperature=1.0))
        start = to_hf(model).train()
        if beta:  # TRL loads the reference by the model's name
            start.save_pretrained(f"{folder}/start")
            start.config._name_or_path = f"{folder}/start"
        trainer = _quietly(RLOOTrainer(start, scored, config, train_dataset=Dataset.from_list(rows),
                                       processing_class=tokenizer.to_hf(), callbacks=list(callbacks)))
        began = time.perf_counter()
        trainer.train()
        happened = _happened(trainer, began)
        happened["rewards"] = [log["reward"] for log in trainer.state.log_history if "reward" in log]
        return from_hf(trainer.model), happened


def _happened(trainer, began):
    return {"losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
            "seconds": time.perf_counter() - began}
