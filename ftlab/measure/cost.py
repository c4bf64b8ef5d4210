"""Memory of fine-tuning: by formula for any size, method and precision, and measured in a fresh process to compare.

    peak = weights + optimizer state + max(activations + logits,  activations + a layer's work,  gradients)

Weights and optimizer state are always there. Activations grow through the forward pass and are largest at its end, where
the logits come on top; on the way back they go, layer by layer, while the gradients of what learns come. A frozen weight
needs no gradient and no state: that is what LoRA saves. Held in 4 bits it takes an eighth: that is what QLoRA saves.
The activations of both remain.

The formula counts what our transformer (`ftlab.model.transformer`: the Llama block, attention without a T x T matrix)
keeps for the backward pass, tensor by tensor; a test counts them. Left out: the CUDA context, fragmentation, other
processes' share, tensor parallelism, biases.
"""

import dataclasses
import json
import subprocess
import sys

from ftlab.errors import UsageError
from ftlab.files import with_this_package

METHODS = ("full", "lora", "qlora", "adapter", "prefix", "ptuning", "prompt")
# Bytes of a number: (frozen weights, weights that learn, gradients, a moment of the optimizer, activations). "mixed" is
# autocast: weights stay in float32 and are copied to bfloat16 for the products. Adapters learn in float32 in all three.
PRECISIONS = {"float32": (4, 4, 4, 4, 4), "mixed": (4, 4, 4, 4, 2), "bfloat16": (2, 2, 2, 2, 2)}
# (moments of a number that learns, bytes of one or None for the precision's). Paged ones lie in the CPU's memory.
OPTIMIZERS = {"adamw": (2, None), "adamw_8bit": (2, 1), "paged_adamw": (0, None), "momentum": (1, None), "sgd": (0, None)}
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True)
class Shape:
    """A decoder of the Llama family. kv_heads, head_size: None where as many as heads, and hidden_size / num_heads."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    kv_heads: int | None = None
    head_size: int | None = None
    tied: bool = True

    @property
    def q_size(self):
        """Width of all queries together."""
        return self.num_heads * (self.head_size or self.hidden_size // self.num_heads)

    @property
    def kv_size(self):
        """Width of all keys together."""
        return self.q_size // self.num_heads * (self.kv_heads or self.num_heads)

    def linears(self):
        """{name: (inputs k, outputs n)} of the linear layers of one block."""
        c, i = self.hidden_size, self.intermediate_size
        sizes = [(c, self.q_size), (c, self.kv_size), (c, self.kv_size), (self.q_size, c), (c, i), (c, i), (i, c)]
        return dict(zip(LINEAR, sizes, strict=True))

    @property
    def linear(self):
        """Weights of the linear layers but the head: what QLoRA quantises."""
        return self.num_layers * sum(k * n for k, n in self.linears().values())

    @property
    def other(self):
        """Weights of embedding, head and norms."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2) + (2 * self.num_layers + 1) * self.hidden_size

    @property
    def parameters(self):
        """All weights."""
        return self.linear + self.other


# From the models' published config.json.
SIZES = {
    "1B (Llama 3.2)": Shape(128256, 2048, 16, 32, 8192, kv_heads=8),
    "3B (Llama 3.2)": Shape(128256, 3072, 28, 24, 8192, kv_heads=8),
    "7B (Llama 2)": Shape(32000, 4096, 32, 32, 11008, tied=False),
    "8B (Llama 3.1)": Shape(128256, 4096, 32, 32, 14336, kv_heads=8, tied=False),
    "13B (Llama 2)": Shape(32000, 5120, 40, 40, 13824, tied=False),
    "32B (Qwen 2.5)": Shape(152064, 5120, 64, 40, 27648, kv_heads=8, tied=False),
    "70B (Llama 3.1)": Shape(128256, 8192, 80, 64, 28672, kv_heads=8, tied=False),
}


def trainable(shape, method, r=8, target_modules=LINEAR, num_virtual_tokens=16, bottleneck_size=32):
    """How many numbers learn. lora and qlora: r (k + n) a target; adapter: two bottlenecks a layer, with biases; prefix
    and ptuning: keys and values of every layer (prefix without its MLP, which is thrown away); prompt: input vectors."""
    if method == "full":
        return shape.parameters
    if method in ("lora", "qlora"):
        return shape.num_layers * sum(r * sum(shape.linears()[name]) for name in target_modules)
    if method == "adapter":
        return shape.num_layers * 2 * (2 * shape.hidden_size * bottleneck_size + bottleneck_size + shape.hidden_size)
    if method in ("prefix", "ptuning"):
        return shape.num_layers * 2 * shape.kv_size * num_virtual_tokens
    return num_virtual_tokens * shape.hidden_size


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of each part; `peak` is what is needed at once. `parts()` splits the peak as it stands at its moment."""

    weights: float
    optimizer: float
    gradients: float
    activations: float
    logits: float
    work: float
    trainable: int

    @property
    def peak(self):
        """weights + optimizer + the largest of the three moments."""
        return self.weights + self.optimizer + max(self.moments().values())

    def moments(self):
        """{moment: bytes there, besides weights and optimizer state}."""
        return {"end of the forward pass": self.activations + self.logits,
                "first layer on the way back": self.activations + self.work,
                "end of the backward pass": self.gradients + self.work}

    def parts(self):
        """{name: bytes}, which add up to the peak."""
        moments = self.moments()
        at = max(moments, key=moments.get)
        passing = {"end of the forward pass": {"activations": self.activations, "logits": self.logits},
                   "first layer on the way back": {"activations": self.activations, "work": self.work},
                   "end of the backward pass": {"gradients": self.gradients, "work": self.work}}[at]
        return {"weights": self.weights, "optimizer": self.optimizer, **passing}


def memory(shape, method="full", precision="float32", optimizer="adamw", batch=1, tokens=512, checkpointing=False, r=8,
           target_modules=LINEAR, block_size=64, double_quant=True, num_virtual_tokens=16, bottleneck_size=32):
    """The Memory of fine-tuning a model of `shape`: `batch` rows of `tokens` tokens a step, every token with a label.

    method: one of METHODS; precision: of PRECISIONS; optimizer: of OPTIMIZERS. checkpointing: only each layer's input is
    kept, and the rest computed again on the way back. Raises UsageError.
    """
    for name, value, known in (("method", method, METHODS), ("precision", precision, PRECISIONS),
                               ("optimizer", optimizer, OPTIMIZERS)):
        if value not in known:
            raise UsageError(f"no {name} is called {value!r}; choose one of {', '.join(known)}")
    if not (batch >= 1 and tokens >= 1):
        raise UsageError(f"batch {batch}, tokens {tokens}: both must be at least 1")
    frozen_bytes, full_bytes, grad_bytes, moment_bytes, activation_bytes = PRECISIONS[precision]
    full, learned = method == "full", trainable(shape, method, r, target_modules, num_virtual_tokens, bottleneck_size)
    if not full:
        full_bytes = grad_bytes = moment_bytes = 4
    per_linear = frozen_bytes
    if method == "qlora":
        per_linear = (4 + (8 / block_size + 32 / (block_size * 256) if double_quant else 32 / block_size)) / 8
    frozen = 0 if full else per_linear * shape.linear + frozen_bytes * shape.other
    moments, own = OPTIMIZERS[optimizer]
    count = batch * tokens
    extra = num_virtual_tokens if method in ("prefix", "ptuning", "prompt") else 0
    kept = layer_activations(shape, method, r, target_modules, bottleneck_size)  # numbers a token and layer
    held = (shape.hidden_size if checkpointing else kept) * shape.num_layers
    # The last norm, and what the head reads. Where both are frozen the norm keeps its input alone; the first layer keeps
    # one less, as nothing that learns lies before it.
    ends = shape.hidden_size * 4 if full else 0
    again = activation_bytes * batch * (tokens + extra) * kept if checkpointing else 0  # one layer, computed again
    return Memory(
        weights=frozen + full_bytes * learned,
        optimizer=moments * (own or moment_bytes) * learned,
        gradients=grad_bytes * learned,
        activations=activation_bytes * batch * (tokens + extra) * (held + ends),
        # log-probabilities, their gradient and that of the logits, in float32 whatever the rest is in
        logits=3 * 4 * count * shape.vocab_size,
        work=_work(shape, method, count, activation_bytes) + again,
        trainable=learned)


def layer_activations(shape, method="full", r=8, target_modules=LINEAR, bottleneck_size=32):
    """Numbers a token that one layer keeps for the backward pass.

    Residual stream twice, normed input twice (and twice before the gain, where the gain learns), q, k, v and the result
    of attention, and four of the MLP: gate, silu(gate), up, their product. LoRA adds its r a target.
    """
    c, i = shape.hidden_size, shape.intermediate_size
    attention = 2 * shape.q_size + 2 * shape.kv_size + shape.num_heads  # the last: a sum a head
    numbers = 2 * c + attention + 3 * i + 2  # the residual stream twice, and one over its rms
    if method == "full":
        return numbers + 4 * c + i
    if method in ("lora", "qlora"):
        inputs = 0  # what a frozen product reads is kept only where an A beside it learns
        inputs += c * bool({"q_proj", "k_proj", "v_proj"} & set(target_modules))
        inputs += c * bool({"gate_proj", "up_proj"} & set(target_modules)) + i * ("down_proj" in target_modules)
        return numbers + inputs + r * len(target_modules)
    if method == "adapter":
        return numbers + 2 * (c + 2 * bottleneck_size)
    return numbers


def _work(shape, method, count, activation_bytes):
    """Bytes in use inside one layer on the way back: gradients of the MLP's tensors, and a weight that is made anew."""
    passing = activation_bytes * count * (3 * shape.intermediate_size + 2 * shape.hidden_size)
    largest = max(k * n for k, n in shape.linears().values())
    if method == "qlora":
        return passing + 8 * largest  # the codes as indices and the values, 4 bytes a weight each
    return passing


def gib(value):
    """Bytes as text: "3.2 GiB", "410 MiB"."""
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


# -- measured

MEASURED = {  # random models of 50 to 300 million parameters
    "54M": Shape(8192, 640, 10, 10, 1728),
    "124M": Shape(16384, 768, 15, 12, 2048),
    "302M": Shape(16384, 1024, 23, 16, 2736),
}
WAIT = 900  # seconds that a measurement may take


def measure_peak(shape, method="full", optimizer="adamw", batch=1, tokens=256, checkpointing=False, r=8, steps=2, seed=0,
                 config=None):
    """Bytes that fine-tuning adds to a fresh Python process at its peak: float32, our transformer, random weights.

    In the process a tiny model takes a step first, so that what torch needs for itself is there already; then the model
    is made, `steps` steps are taken, and the highest resident memory of these (on a GPU: of its allocator) is read.
    config: what `attach` is given for the method; by default the rank `r` for lora and qlora, nothing for others.
    Raises UsageError where the process fails, as for want of memory.
    """
    wish = {"shape": dataclasses.asdict(shape), "method": method, "optimizer": optimizer, "batch": batch, "seed": seed,
            "tokens": tokens, "checkpointing": checkpointing, "steps": steps,
            "config": config if config is not None else {"r": r} if method in ("lora", "qlora") else {}}
    if method not in METHODS or optimizer not in ("adamw", "momentum", "sgd"):
        raise UsageError(f"{method} with {optimizer} cannot be measured: choose one of {', '.join(METHODS)}, with adamw, "
                         "momentum or sgd")
    # What is freed goes back to the system at once, so that resident memory is what is in use.
    environment = with_this_package() | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", "from ftlab.measure import cost; cost._in_fresh_process()", json.dumps(wish)],
        env=environment, capture_output=True, text=True, timeout=WAIT, check=False)  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed, probably for want of memory"])[-1]
        raise UsageError(f"the measuring process failed: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])["peak"]


def compare(shape, method="full", **setting):
    """dict(measured, predicted, error): bytes by `measure_peak` and by `memory`, and predicted / measured − 1."""
    measured = measure_peak(shape, method, **setting)
    setting = {name: value for name, value in setting.items() if name not in ("steps", "seed")}
    setting.setdefault("tokens", 256)
    predicted = memory(shape, method, **setting).peak
    return {"measured": measured, "predicted": round(predicted), "error": predicted / measured - 1}


def _in_fresh_process():
    """What `measure_peak` runs: reads the wish from the command line, prints {"peak": bytes}."""
    wish = json.loads(sys.argv[1])
    shape = Shape(**wish.pop("shape"))
    steps = wish.pop("steps")
    _steps(Shape(64, 32, 1, 2, 64), **wish | {"tokens": 16, "batch": 1}, steps=1)
    print(json.dumps({"peak": _steps(shape, **wish, steps=steps)}))


def _steps(shape, method, optimizer, batch, tokens, checkpointing, config, steps, seed):
    """Make the model, take the steps, return the peak in bytes over what was there before."""
    import torch

    from ftlab import profile
    from ftlab.text.batching import Batch
    from ftlab.tune import attach

    device = torch.device(profile.current().device)
    meter = _Meter(device)
    torch.manual_seed(seed)
    model = attach(_model(shape, tokens, checkpointing), method, **config).to(device)
    learned = [p for p in model.parameters() if p.requires_grad]
    make = {"adamw": lambda: torch.optim.AdamW(learned, fused=True), "sgd": lambda: torch.optim.SGD(learned, fused=True),
            "momentum": lambda: torch.optim.SGD(learned, momentum=0.9, fused=True)}
    optimizer = make[optimizer]()
    meter.begin()  # making and quantising the model is no part of training it
    for _ in range(steps):
        ids = torch.randint(0, shape.vocab_size, (batch, tokens), device=device)
        optimizer.zero_grad(set_to_none=True)
        model.loss(Batch(ids, ids)).backward()
        optimizer.step()
    return meter.peak()


def _model(shape, tokens, checkpointing):
    """Our Transformer of this shape; with checkpointing each layer's inside is computed again on the way back."""
    from torch.utils.checkpoint import checkpoint

    from ftlab.model import ModelConfig, Transformer

    model = Transformer(ModelConfig(
        shape.vocab_size, shape.hidden_size, shape.num_layers, shape.num_heads, shape.intermediate_size,
        max_position_embeddings=tokens + 64, tie_word_embeddings=shape.tied))
    if checkpointing:
        for layer in model.layers:
            layer.forward = lambda *args, inside=layer.forward: checkpoint(inside, *args, use_reentrant=False)
    return model


class _Meter:
    """Memory in use since it was made: resident memory of this process, or on a GPU what torch has allocated."""

    def __init__(self, device):
        import gc

        gc.collect()
        self.cuda = device.type == "cuda"
        self.before = self._now()

    def _now(self):
        if self.cuda:
            import torch

            return torch.cuda.memory_allocated()
        return _status("VmRSS") or 0

    def begin(self):
        """Forget earlier peaks."""
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            return
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # resets VmHWM; see proc(5)
        except OSError:
            pass  # no Linux: the peak may then be that of making the model

    def peak(self):
        """Bytes at the highest point since `begin`, over those at the start."""
        if self.cuda:
            import torch

            return torch.cuda.max_memory_allocated() - self.before
        return (_status("VmHWM") or _highest()) - self.before


def _status(field):
    """A field of /proc/self/status in bytes, None where there is none."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))
    except (OSError, StopIteration):
        return None


def _highest():
    """The process's highest resident memory in bytes where /proc does not say (macOS counts bytes)."""
    import resource

    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value if sys.platform == "darwin" else value * 1024
