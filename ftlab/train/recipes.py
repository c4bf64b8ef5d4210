"""One place for the settings of the small pretraining run: Labs 02 and 03, `ftlab bench` and the browser test share them.

The small world, a vocabulary of 512, a model of 0.46 M parameters, and every story seen once. The settings were tuned
before any claim was measured on them, and change only together with the claims' versions. Small batches and a high rate
serve best here: at 2048 tokens a batch, copying sets in late.
"""

import dataclasses
import functools

import torch

from ftlab.errors import UsageError
from ftlab.model import ModelConfig, Transformer, generate
from ftlab.text import Tokenizer
from ftlab.text.batching import ChunkBatches, RowBatches, collate
from ftlab.train.loop import TrainConfig
from ftlab.world import World, oracle

STEPS = 800
TOKENS_PER_BATCH = 1024
VOCAB_SIZE = 512
TOKENIZER_STORIES = 3000
LR, MUON_LR, WARMUP = 1e-2, 0.03, 20
MODEL = {"hidden_size": 128, "num_layers": 2, "num_heads": 8, "intermediate_size": 344}
HELD_OUT = 400  # stories of unseen combinations on which the loss is measured
MAX_NEW_TOKENS = 96  # the longest story of the small world has some 70 tokens


@dataclasses.dataclass
class Recipe:
    """What a run needs. `world` and `floor` are None for text whose source is not known.

    batches(step) -> Batch; model_config; config: the TrainConfig; held_out: texts that no batch holds;
    floor: mean entropy of the held-out texts in nats per token. `model()` makes a fresh model of the recipe's seed.
    """

    tokenizer: Tokenizer
    batches: object
    model_config: ModelConfig
    config: TrainConfig
    held_out: list
    world: World | None = None
    floor: float | None = None

    def model(self):
        """A new Transformer whose weights depend on the seed alone."""
        torch.manual_seed(self.config.seed)
        return Transformer(self.model_config)

    def held_out_loss(self, model):
        """Cross-entropy in nats per token on the held-out texts, the end token counted."""
        total = count = 0
        with torch.no_grad():
            for batch in self._held_out_batches:
                tokens = int((batch.labels[:, 1:] != -100).sum())
                total, count = total + model.loss(batch).item() * tokens, count + tokens
        return total / count

    @functools.cached_property
    def _held_out_batches(self):
        length = self.model_config.max_position_embeddings
        rows = [ids[:length] for ids in self.tokenizer.encode_batch(self.held_out, bos=True, eos=True)]
        return [collate(rows[i:i + 100], self.tokenizer.pad_id) for i in range(0, len(rows), 100)]

    def sample(self, model, count, seed=0, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS, on_token=None):
        """`count` texts that the model writes from nothing but the start token."""
        texts = []
        for first in range(0, count, 250):
            prompts = [[self.tokenizer.bos_id]] * min(250, count - first)
            rows = generate(model, prompts, max_new_tokens, temperature, eos_id=self.tokenizer.eos_id,
                            seed=1_000_003 * seed + first, on_token=on_token)
            texts += [self.tokenizer.decode(row) for row in rows]
        return texts

    def shares(self, texts):
        """{"hero_and_object", "every_rule"}: the shares of `texts` that keep them, by the oracle; {} without a world."""
        if self.world is None:
            return {}
        verdicts = [oracle.judge(text, self.world) for text in texts]
        return {name: sum(getattr(v, name) for v in verdicts) / len(verdicts)
                for name in ("hero_and_object", "every_rule")}

    def evaluate(self, samples=100):
        """A function (model, step) -> {"loss", "hero_and_object", "every_rule"} for `train`; shares of `samples` texts."""
        def evaluate(model, step):
            metrics = {"loss": self.held_out_loss(model)}
            if self.world is not None and samples:
                metrics |= self.shares(self.sample(model, samples, seed=step))
            return metrics

        return evaluate


def small_recipe(seed=0, steps=STEPS, evaluations=10, tokens_per_batch=TOKENS_PER_BATCH, **changes):
    """The Recipe of the small run: 0.46 M parameters on bare stories of the small world.

    seed: of stories, batches and weights. evaluations: how many evaluations a run makes.
    changes: fields of the TrainConfig (optimizer, lr, muon_lr, ...) or of the ModelConfig (hidden_size, ...) to set.
    """
    world, tokenizer = World("small"), small_tokenizer()
    rows = _small_rows(seed, steps * tokens_per_batch)
    held_out, floor = _small_held_out()
    model_config, config = _settings(tokenizer, seed, steps, evaluations, changes)
    return Recipe(tokenizer, RowBatches(rows, tokens_per_batch, seed, tokenizer.pad_id), model_config, config,
                  list(held_out), world, floor)


@functools.lru_cache(maxsize=2)
def _small_rows(seed, tokens):
    """The training stories as token ids; sweeps ask for the same ones again and again."""
    return small_tokenizer().encode_batch(small_stories(seed, tokens), bos=True, eos=True)


@functools.cache
def _small_held_out():
    """(texts, floor in nats per token) of the stories that no batch holds."""
    stories = World("small").sample(HELD_OUT, 1, "test")
    texts = tuple(story.text for story in stories)
    tokens = sum(len(ids) + 1 for ids in small_tokenizer().encode_batch(texts))  # the end is a token too
    return texts, sum(-story.logp for story in stories) / tokens


def _settings(tokenizer, seed, steps, evaluations, changes):
    """(ModelConfig, TrainConfig) of the recipe, each with its share of `changes`."""
    of_model = {name: value for name, value in changes.items() if name in ModelConfig.__dataclass_fields__}
    of_run = {name: value for name, value in changes.items() if name not in of_model}
    defaults = {"lr": LR, "optimizer": "muon", "muon_lr": MUON_LR, "schedule": "cosine", "warmup": WARMUP,
                "eval_every": max(1, steps // evaluations), "seed": seed}
    return ModelConfig(tokenizer.vocab_size, **MODEL | of_model), TrainConfig(steps, **defaults | of_run)


@functools.lru_cache(maxsize=2)
def small_stories(seed, tokens):
    """Texts of the small world's training split, enough that a run over `tokens` tokens sees each but once."""
    shortest = 50  # tokens of a story, start and end counted
    return [story.text for story in World("small").sample(tokens // shortest + 1, seed, "train")]


@functools.cache
def small_tokenizer():
    """The one tokenizer of the small world; it does not depend on a run's seed."""
    return Tokenizer.train([s.text for s in World("small").sample(TOKENIZER_STORIES, 0, "train")], VOCAB_SIZE)


def text_recipe(texts, seed=0, steps=STEPS, evaluations=10, vocab_size=1024, seq_len=128, **changes):
    """The same run on the user's own documents (a list of strings, as `ftlab.text.corpus.read_texts` gives).

    Documents are joined end to end and cut into windows of `seq_len` tokens; one in twenty, at least one, is held out.
    Nobody knows the entropy of such text, so `floor` and `world` are None.
    """
    held_out = texts[::20]
    training = [text for i, text in enumerate(texts) if i % 20] or texts
    tokenizer = Tokenizer.train(training[:20_000], vocab_size)
    ids = sum(tokenizer.encode_batch(training, bos=True, eos=True), [])
    if len(ids) < seq_len:
        raise UsageError(f"{len(ids)} tokens of text do not fill one window of {seq_len}: give more text")
    model_config, config = _settings(tokenizer, seed, steps, evaluations, changes)
    batches = ChunkBatches(ids, seq_len, max(1, TOKENS_PER_BATCH // seq_len), seed)
    return Recipe(tokenizer, batches, model_config, config, held_out[:HELD_OUT])
