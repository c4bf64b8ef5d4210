"""The rows of `ftlab bench tune` about LoRA: ours (readable, and fast) against PEFT's, and against our full fine-tuning.

"Readable" is the layer of `ftlab.tune.lora` under autograd; "fast" the same layer with the gradient of
`ftlab.model.backprop`, as our loop takes it by itself. All start from the shipped base and see the same batches in the same
order, float32, AdamW (fused, torch's), gradients clipped at 1, rank 8 beside every linear layer; runs take turns. Peers:

- PEFT LoRA, plain loop: `get_peft_model` over the base as a LlamaForCausalLM, and the loop that everybody writes.
- PEFT LoRA in our model and loop: PEFT's layers put into our Transformer, so that the layer alone differs.
- TRL SFTTrainer with PEFT LoRA: its settings are those of `ftlab bench train`.

Our loop takes denormal numbers as zeros (`ftlab.train.denormals`), the peers' loops run as the processor comes; the second
peer runs in our loop and has that, too.
"""

import functools
import time

import torch

from ftlab.bench.common import paired, take_turns
from ftlab.bench.train import make_peer
from ftlab.model import to_hf
from ftlab.train import TrainConfig, train
from ftlab.tune import attach, lora

CONFIG = {"r": 8, "lora_alpha": 16}
LOOP, LAYER, TRAINER = "PEFT LoRA, plain loop", "PEFT LoRA in our model and loop", "TRL SFTTrainer with PEFT LoRA"


def speed(common, scratch, report=None, quick=False):
    """Rows of useful tokens per second. common: the Setting of `ftlab.bench.tune`."""
    warm, steps, rounds = (1, 2, 2) if quick else (2, 10, 6)
    ours = functools.partial(_ours, common.batches, warm, steps)
    results = take_turns({
        "full": lambda: ours(attach(common.model(), "full")),
        "readable": lambda: ours(attach(common.model(), "lora", **CONFIG), lambda model, batch: model.loss(batch)),
        "fast": lambda: ours(attach(common.model(), "lora", **CONFIG)),
        LAYER: lambda: ours(_with_peft_layers(common.model())),
        LOOP: lambda: _plain_loop(_peft(common.model()), common.batches, warm, steps),
        TRAINER: lambda: _trainer(_peft(common.model()), common.batches, warm, steps, scratch),
    }, rounds, report, "LoRA, tokens/s, round")
    rows = []
    for name in ("readable", "fast"):
        for peer in (LOOP, LAYER, TRAINER):
            rows.append(paired(f"tune, LoRA, {name}, against {peer}", results[name], results[peer], "useful tokens/s"))
        rows.append(paired(f"tune, LoRA, {name}, against our full fine-tuning", results[name], results["full"],
                           "useful tokens/s"))
    return rows


def _ours(batches, warm, steps, model, loss=None):
    """Useful tokens per second of our loop after `warm` steps. loss: autograd's way; None: the quick one where it fits."""
    marks = {}

    def clock(event):
        if event["kind"] == "step":
            marks[event["step"]] = time.perf_counter(), event["history"].tokens

    train(model, batches, TrainConfig(warm + steps, lr=1e-3, schedule="constant"), loss, callbacks=[clock])
    (began, before), (ended, after) = marks[warm], marks[warm + steps]
    return (after - before) / (ended - began)


def _peft(model):
    """PEFT's model over our `model` as a LlamaForCausalLM."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(to_hf(model), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **CONFIG)).train()


def _with_peft_layers(model):
    """Our Transformer with PEFT's layers in it."""
    from peft import LoraConfig, inject_adapter_in_model

    names = sorted({name.split(".")[-1] for name in lora.targets(model)})
    return inject_adapter_in_model(LoraConfig(target_modules=names, **CONFIG), model)


def _plain_loop(model, batches, warm, steps):
    """Useful tokens per second of the loop that everybody writes."""
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer, tokens = torch.optim.AdamW(learns, lr=1e-3, fused=True), 0
    for step in range(warm + steps):
        if step == warm:
            began = time.perf_counter()
        batch = batches(step)
        optimizer.zero_grad()
        loss = model(input_ids=batch.input_ids, labels=batch.labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learns, 1.0)
        optimizer.step()
        loss.item()
        tokens += batch.num_tokens() if step >= warm else 0
    return tokens / (time.perf_counter() - began)


def _trainer(model, batches, warm, steps, scratch):
    """Useful tokens per second of SFTTrainer after `warm` steps."""
    from transformers import TrainerCallback

    marks = {}

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **rest):
            marks[state.global_step] = time.perf_counter()

    make_peer("TRL SFTTrainer", model, batches, warm + steps, scratch, [Clock()]).train()
    tokens = sum(batches(step).num_tokens() for step in range(warm, warm + steps))
    return tokens / (marks[warm + steps] - marks[warm])
