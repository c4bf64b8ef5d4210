"""Make data/adapters_package.json: what the package `adapters` computes, for `test_adapter.py` to compare ours with.

`adapters` pins an older transformers, so this runs in an environment of its own:

    python -m venv /tmp/adapters && /tmp/adapters/bin/pip install adapters==1.3.0 torch==2.13.0
    /tmp/adapters/bin/python tests/tune/adapters_numbers.py

Every parameter is set by a formula, so that nothing random has to agree between versions. The adapters' second matrix
is not zero here, or they would have nothing to show.
"""

import json
import pathlib

import torch

SHAPE = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
         "tie_word_embeddings": False}  # fmt: skip
GPT2 = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "resid_pdrop": 0.0,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip
BOTTLENECK = 4  # a quarter of the hidden size: the package asks for the factor
IDS = [[1, 17, 4, 33, 8, 59], [2, 2, 40, 41, 42, 7]]
OUT = pathlib.Path(__file__).parent / "data" / "adapters_package.json"


def fill(named_parameters, salt):
    """Set parameters, in the order of their names, to a wave of sines of size 0.2; norms' weights near 1."""
    with torch.no_grad():
        for index, (name, parameter) in enumerate(sorted(named_parameters, key=lambda pair: pair[0])):
            steps = torch.arange(parameter.numel(), dtype=torch.float64)
            wave = torch.sin(1.7 * steps + 0.9 * steps.sqrt() + 3.1 * index + salt).view_as(parameter) * 0.2
            norm = ("norm" in name or ".ln_" in name) and parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_((wave + (1.0 if norm else 0.0)).to(parameter.dtype))


def base(kind):
    """A tiny causal LM with weights by `fill`."""
    import transformers

    config = (transformers.LlamaConfig(**SHAPE) if kind == "llama" else transformers.GPT2Config(**GPT2))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    fill([(n, p) for n, p in model.named_parameters() if n != "lm_head.weight" or kind == "llama"], salt=0.0)
    return model


def main():
    import adapters

    made = {"versions": {"adapters": adapters.__version__, "torch": torch.__version__}, "cases": []}
    for kind in ("llama", "gpt2"):
        for placement, config in (("houlsby", adapters.DoubleSeqBnConfig), ("pfeiffer", adapters.SeqBnConfig)):
            model = base(kind)
            adapters.init(model)
            model.add_adapter("a", config=config(reduction_factor=SHAPE["hidden_size"] // BOTTLENECK))
            model.set_active_adapters("a")
            model.train_adapter("a")
            model.eval()
            own = {name: p for name, p in model.named_parameters() if ".adapters.a." in name}
            # layer, place (attention first), and down or up, weight or bias
            names = sorted(own, key=lambda n: (int(next(x for x in n.split(".") if x.isdigit())),
                                               "attention_adapters" not in n, "adapter_up" in n, n.endswith("bias")))
            fill([(f"{i:03d}", own[name]) for i, name in enumerate(names)], salt=5.0)
            ids = torch.tensor(IDS)
            logits = model(input_ids=ids).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            made["cases"].append({
                "model": kind, "placement": placement, "trainable": sum(p.numel() for p in model.parameters()
                                                                        if p.requires_grad),
                "shapes": [list(own[name].shape) for name in names], "loss": loss.item(),
                "logits": [[round(x, 7) for x in row[-1, :12].tolist()] for row in logits],
                "gradients": [round(own[name].grad.norm().item(), 8) for name in names]})
            print(kind, placement, loss.item(), names[:4])
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
