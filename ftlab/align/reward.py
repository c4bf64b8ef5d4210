"""The reward model: a transformer that reads a whole answer and says, in one number, how much people would like it.

Learned from pairs by the model of Bradley and Terry (1952): P(a preferred to b) = σ(r(a) − r(b)) (Ouyang et al. 2022,
eq. 1). The number stands on the last token of the answer, as in `transformers.LlamaForSequenceClassification`, which
loads what `save` writes.

Left out: margins that say how much better (Llama 2), ensembles, a reward for each step of an answer.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from ftlab import files
from ftlab.align.pairs import PairBatches, over_rows, pair_rows
from ftlab.model import backprop, hub
from ftlab.numbers import check_whole, finite
from ftlab.train import TrainConfig, train

# Muon: a reward model must learn to read anew (is the hero the same throughout?), and AdamW alone had not begun to after 40
# batches in which Muon had reached 77 % of held-out pairs.
LR, MUON_LR, PAIRS_PER_BATCH, EPOCHS = 3e-3, 0.02, 16, 1


class RewardModel(nn.Module):
    """A body (a Transformer; its head is not used) and a linear score of the last hidden state, without a bias.

    `shift` is taken from the score: differences decide what is preferred, so the loss leaves the level open (`centred`).
    """

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.score = nn.Linear(body.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.register_buffer("shift", torch.zeros(()))

    @property
    def config(self):
        """The body's shape."""
        return self.body.config

    def forward(self, ids, ends):
        """Rewards (B,) of rows ids (B, T), padded on the right; ends (B,): the place of each row's last token."""
        states = backprop.hidden(self.body, ids)[torch.arange(len(ids)), ends]  # (B, C)
        return self.score(states)[:, 0] - self.shift


def bradley_terry_loss(chosen, rejected):
    """−log σ(r_chosen − r_rejected), the mean over pairs; and what it says of them.

    chosen, rejected: (B,). Returns (loss in nats, {"accuracy": share of pairs ranked as the annotator did, "margin": mean
    difference}).
    """
    margin = chosen - rejected
    return -F.logsigmoid(margin).mean(), {"accuracy": (margin > 0).float().mean().item(), "margin": margin.mean().item()}


def pair_loss(model, batch):
    """The loss of a PairBatch, as `train` wants it."""
    return bradley_terry_loss(*model(batch.ids, batch.ends).chunk(2))[0]


def train_reward_model(start, tokenizer, pairs, *, lr=LR, muon_lr=MUON_LR, optimizer="muon", epochs=EPOCHS, steps=None,
                       pairs_per_batch=PAIRS_PER_BATCH, seed=0, template="alpaca", callbacks=(), evaluate=None,
                       eval_every=None):
    """(RewardModel, History): a copy of the Transformer `start` learns from `pairs` (objects with prompt, chosen,
    rejected), with linear decay, `epochs` times through them or `steps` batches. optimizer: "muon" (hidden matrices at
    `muon_lr`, the rest by AdamW at `lr`) or "adamw". evaluate(RewardModel, step) -> dict of numbers."""
    model = RewardModel(copy.deepcopy(start))
    batches = PairBatches(*pair_rows(pairs, tokenizer, template, start.config.max_position_embeddings), pairs_per_batch,
                          tokenizer, seed)
    config = TrainConfig(steps or round(epochs * batches.steps_per_epoch), lr=lr, muon_lr=muon_lr, optimizer=optimizer,
                         schedule="linear", warmup=0.1, seed=seed, eval_every=eval_every)
    history = train(model, batches, config, pair_loss, evaluate, callbacks)
    return model, history


def rewards_of(model, rows, tokenizer):
    """Rewards, a list of numbers, of rows (ids, length of the prompt)."""
    return over_rows(rows, tokenizer, lambda batch: model(batch.ids, batch.ends))


def accuracy(model, tokenizer, pairs, template="alpaca"):
    """Share of pairs in which the chosen response has the higher reward."""
    chosen, rejected = (rewards_of(model, rows, tokenizer) for rows in pair_rows(pairs, tokenizer, template))
    return sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(pairs)


def calibration(model, tokenizer, pairs, bins=5, template="alpaca"):
    """[(what the model says, what was chosen, number of pairs), …]: pairs sorted by P = σ(r_a − r_b) of the response
    that stands first in a fixed, arbitrary order, in bins of equal number. A calibrated model says what happens."""
    check_whole("bins", bins)
    chosen, rejected = (rewards_of(model, rows, tokenizer) for rows in pair_rows(pairs, tokenizer, template))
    said = []
    for index, (a, b) in enumerate(zip(chosen, rejected, strict=True)):
        first = 1 - index % 2 * 2  # every other pair is read from the other side
        said.append((torch.sigmoid(torch.tensor(first * (a - b))).item(), float(first > 0)))
    said.sort()
    size = -(-len(said) // bins)
    groups = [said[i:i + size] for i in range(0, len(said), size)]
    return [(sum(p for p, _ in group) / len(group), sum(y for _, y in group) / len(group), len(group)) for group in groups]


def centred(model, rewards):
    """The model with its level moved so that `rewards` of it (a list of numbers) have mean 0 (Stiennon et al. 2020). Their
    spread stays: a difference of 1 means odds of e to 1."""
    if not len(rewards) or not all(finite(float(one)) for one in rewards):
        raise ValueError("centred needs at least one reward, and all must be finite numbers")
    model.shift += sum(rewards) / len(rewards)
    return model


def to_hf(model, pad_id):
    """The reward model as a `transformers.LlamaForSequenceClassification` with one label: the same number, the shift left
    out."""
    import transformers

    settings = hub.hf_config_dict(model.config) | {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1,
                                                   "pad_token_id": pad_id}
    settings.pop("torch_dtype")
    theirs = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**settings))
    state = {key: value for key, value in hub.hf_state_dict(model.body).items() if not key.startswith("lm_head")}
    theirs.load_state_dict(state | {"score.weight": model.score.weight.detach()})
    return theirs.eval()


def from_hf(theirs):
    """The way back of `to_hf`."""
    body = hub.from_hf(theirs)
    model = RewardModel(body)
    with torch.no_grad():
        model.score.weight.copy_(theirs.score.weight)
    return model.eval()


def save(model, tokenizer, folder):
    """Write the reward model as `transformers.AutoModelForSequenceClassification` reads it; whole or not at all."""
    with files.atomic_folder(folder) as temporary:
        to_hf(model, tokenizer.pad_id).save_pretrained(temporary)
        tokenizer.save(temporary)
