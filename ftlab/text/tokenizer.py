"""A byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019) over the `tokenizers` library.

Every text can be encoded, since every byte is a token of the alphabet. Lab 02 writes the training by hand and shows
the same merges.
"""

import pathlib

from ftlab import files
from ftlab.errors import UsageError

PAD, BOS, EOS, MASK = SPECIALS = ("<pad>", "<s>", "</s>", "<mask>")


class Tokenizer:
    """Text to token ids and back. Special tokens: <pad> 0, <s> 1 (start), </s> 2 (end), <mask> 3."""

    def __init__(self, backend):
        """backend: a `tokenizers.Tokenizer` that knows the special tokens (see `train` and `load`)."""
        self.backend = backend
        ids = {name: backend.token_to_id(name) for name in SPECIALS}
        self.pad_id, self.bos_id, self.eos_id, self.mask_id = (ids[name] for name in SPECIALS)
        self.vocab_size = backend.get_vocab_size()
        self.line_starts = backend.normalizer is not None

    @classmethod
    def train(cls, texts, vocab_size=1024, line_starts=False):
        """Learn merges from an iterable of strings until there are `vocab_size` tokens (260 at least).

        line_starts: a word that begins a line is the same token as behind a space, so that a model which copies it from
        the middle of a line to the beginning of another (an answer, in Alpaca's form) copies one token and need not
        know how the word is spelled. While encoding, a space is put behind each line break (unless another one follows
        at once); decoding takes it away again, so that no text is changed.
        """
        from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Backend

        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        if line_starts:
            backend.normalizer = normalizers.Replace(Regex(r"\n(?=[^\n])"), "\n ")
            backend.decoder = decoders.Sequence([backend.decoder, decoders.Replace("\n ", "\n")])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        if vocab_size < len(alphabet) + len(SPECIALS):
            raise UsageError(f"vocab_size is {vocab_size}; the bytes and special tokens alone need "
                             f"{len(alphabet) + len(SPECIALS)}: ask for at least that many")
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIALS),
                                      initial_alphabet=alphabet, show_progress=False)
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    def encode(self, text, bos=False, eos=False):
        """Token ids of `text`, with the start and end tokens where asked for."""
        return [self.bos_id] * bos + self.backend.encode(text, add_special_tokens=False).ids + [self.eos_id] * eos

    def encode_batch(self, texts, bos=False, eos=False):
        """As `encode`, for many texts at once (much faster)."""
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [[self.bos_id] * bos + encoding.ids + [self.eos_id] * eos for encoding in encodings]

    def behind(self, before, text):
        """`text` as it must be put to `encode` when the ids are to stand behind those of `before`.

        Only where `line_starts` holds and `before` ends a line is that something else than the text.
        """
        return " " + text if self.line_starts and before.endswith("\n") and text[:1] not in ("", "\n") else text

    def decode(self, ids, skip_special=True):
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def pieces(self, ids):
        """The text of each id by itself, for showing; a leading space is kept, so that they join to the text."""
        texts = [self.backend.id_to_token(int(i)) if int(i) < len(SPECIALS) else self.decode([i]) for i in ids]
        if self.line_starts:
            for i in range(1, len(texts)):
                texts[i] = texts[i].removeprefix(" ") if texts[i - 1].endswith("\n") else texts[i]
        return texts

    def merges(self):
        """The learnt merges, first to last, as pairs of byte-alphabet strings."""
        import json

        pairs = json.loads(self.backend.to_str())["model"]["merges"]
        return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in pairs]

    def to_hf(self):
        """The same tokenizer as a `transformers.PreTrainedTokenizerFast`."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_object=self.backend, pad_token=PAD, bos_token=BOS, eos_token=EOS,
                                       mask_token=MASK, clean_up_tokenization_spaces=False)

    def save(self, folder):
        """Write tokenizer.json and tokenizer_config.json, which `AutoTokenizer.from_pretrained` reads."""
        folder = pathlib.Path(folder)
        files.atomic_write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        files.write_json(folder / "tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "bos_token": BOS, "eos_token": EOS,
            "mask_token": MASK, "clean_up_tokenization_spaces": False})

    @classmethod
    def load(cls, folder):
        """Read the tokenizer that `save` wrote to `folder`."""
        from tokenizers import Tokenizer as Backend

        path = pathlib.Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UsageError(f"{path}: no such file; give a folder that holds a saved tokenizer")
        return cls(Backend.from_file(str(path)))
