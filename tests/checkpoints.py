"""Tiny random checkpoints of `transformers`, in three families' layouts, with a tokenizer trained on the world's text."""

import torch

LAYOUTS = ("llama", "qwen3", "gpt2")
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "max_position_embeddings": 1024, "tie_word_embeddings": True}  # fmt: skip


def trained_tokenizer(vocab_size=600):
    """A byte-level BPE like GPT-2's and SmolLM2's: no start token, one end token, ids of no other use before the bytes."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from ftlab.world import World, tasks

    world = World("rich")
    texts = [f"{task.instruction}\n{task.input}\n{task.response}" for family in tasks.FAMILIES
             for task in tasks.make(world, family, 40, "tokenizer")]  # fmt: skip
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>", "<|pad|>"], initial_alphabet=alphabet, show_progress=False))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|pad|>",
                                                bos_token="<|endoftext|>")


def config_of(layout, vocab_size):
    """The config of a tiny model; llama and qwen3 have grouped keys and values, which our Transformer has not."""
    import transformers

    if layout == "gpt2":
        return transformers.GPT2Config(vocab_size=vocab_size, n_embd=64, n_layer=2, n_head=4, n_positions=1024, **ENDS)
    kind = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config}[layout]
    return kind(vocab_size=vocab_size, **SHAPE, **({"head_dim": 24} if layout == "qwen3" else {}), **ENDS)


def save_checkpoint(layout, folder, tokenizer=None):
    """Write a checkpoint of a layout to `folder`; returns the folder."""
    import transformers

    tokenizer = tokenizer or trained_tokenizer()
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config_of(layout, len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
