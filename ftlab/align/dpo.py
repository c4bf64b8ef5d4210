"""Direct preference optimisation (Rafailov et al. 2023): the policy learns from pairs, without a reward model beside it.

What PPO looks for, the policy of the highest reward r less β KL(π ‖ π_ref), is known in closed form,
π*(y|x) ∝ π_ref(y|x) exp(r(x, y) / β) (eq. 4). Solved for the reward, r = β log(π / π_ref) + a number that hangs on x
alone (eq. 5) and so drops out of a comparison: Bradley and Terry's loss for r becomes a loss for π (eq. 7).
"""

import copy

import torch
import torch.nn.functional as F

from ftlab.align.pairs import PairBatches, logprobs_of, pair_rows, sequence_logprobs, token_logprobs
from ftlab.numbers import check_known, check_real
from ftlab.train import TrainConfig, train

KINDS = ("sigmoid", "ipo")
LR, BETA, PAIRS_PER_BATCH, EPOCHS = 1e-3, 0.1, 32, 1


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=BETA, label_smoothing=0.0, kind="sigmoid", lengths=None):
    """The mean loss over pairs, in nats, and its metrics. All inputs (B,): log π(response | prompt) under the policy and the
    reference.

    kind "sigmoid": −log σ(margin), margin = β [(log π/π_ref)(chosen) − (log π/π_ref)(rejected)] (eq. 7). With
    label_smoothing ε the annotator is taken to be wrong in a share ε of pairs (cDPO, Mitchell 2023). kind "ipo": the margin
    of log-ratios is drawn to 1 / 2β instead of growing without end (Azar et al. 2023, eq. 17); where `lengths` (tokens of
    the chosen, of the rejected) are given, of log-ratios a token, as TRL has it.
    Metrics: "accuracy" (share of pairs with a positive margin), "margin", "chosen" and "rejected" (implicit rewards).
    Raises ValueError for another kind, and for numbers that cannot be meant.
    """
    _check(beta, label_smoothing, kind)
    reward_chosen, reward_rejected = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    margin = reward_chosen - reward_rejected  # (B,)
    if kind == "ipo":
        per = lengths or (1, 1)
        loss = (reward_chosen / beta / per[0] - reward_rejected / beta / per[1] - 1 / (2 * beta)) ** 2
    else:
        loss = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    return loss.mean(), {"accuracy": (margin > 0).float().mean().item(), "margin": margin.mean().item(),
                         "chosen": reward_chosen.mean().item(), "rejected": reward_rejected.mean().item()}


def _check(beta, label_smoothing, kind):
    check_known("kind", kind, KINDS)
    check_real("beta", beta, above=0)
    check_real("label_smoothing", label_smoothing, least=0, most=1)
    if kind == "ipo" and label_smoothing:
        raise ValueError(f"label_smoothing is {label_smoothing!r}, but the kind ipo has none: leave it at 0")


def pair_loss(beta=BETA, label_smoothing=0.0, kind="sigmoid", metrics=None):
    """The loss of a PairBatch with reference log-probabilities, as `train` wants it. metrics: a list that takes those of
    each step."""
    _check(beta, label_smoothing, kind)

    def loss(model, batch):
        chosen, rejected = sequence_logprobs(model, batch).chunk(2)
        value, found = dpo_loss(chosen, rejected, *batch.reference.chunk(2), beta, label_smoothing, kind,
                                batch.mask.sum(1).chunk(2))
        if metrics is not None:
            metrics.append(found)
        return value

    return loss


def dpo(start, tokenizer, pairs, *, beta=BETA, lr=LR, epochs=EPOCHS, steps=None, pairs_per_batch=PAIRS_PER_BATCH,
        label_smoothing=0.0, kind="sigmoid", seed=0, template="alpaca", callbacks=(), evaluate=None, eval_every=None):
    """(policy, History, metrics of each step): a copy of the Transformer `start` learns from `pairs`, `start` being the
    reference. By AdamW with linear decay, `epochs` times through the pairs or `steps` batches."""
    _check(beta, label_smoothing, kind)
    policy = copy.deepcopy(start)
    made = pair_rows(pairs, tokenizer, template, start.config.max_position_embeddings)
    reference = [logprobs_of(start, rows, tokenizer) for rows in made]  # once: the reference never changes
    batches = PairBatches(*made, pairs_per_batch, tokenizer, seed, reference)
    config = TrainConfig(steps or round(epochs * batches.steps_per_epoch), lr=lr, schedule="linear", warmup=0.1, seed=seed,
                         eval_every=eval_every)
    metrics = []
    history = train(policy, batches, config, pair_loss(beta, label_smoothing, kind, metrics), evaluate, callbacks)
    return policy, history, metrics


def implicit_rewards(policy, reference, rows, tokenizer, beta=BETA):
    """β log(π / π_ref) of rows (ids, length of the prompt), a list: the reward model that DPO has learned (eq. 5), but for a
    number that hangs on the prompt alone."""
    new, old = (logprobs_of(model, rows, tokenizer) for model in (policy, reference))
    return [beta * (a - b) for a, b in zip(new, old, strict=True)]


@torch.no_grad()
def token_rewards(policy, reference, row, beta=BETA):
    """β log(π / π_ref) of each token of the response of one row (ids, length of the prompt): a list."""
    ids, start = row
    ids = torch.tensor([ids])
    mask = torch.arange(1, ids.shape[1])[None] >= start  # (1, T − 1)
    both = [token_logprobs(model, ids, mask)[mask] for model in (policy, reference)]
    return (beta * (both[0] - both[1])).tolist()
