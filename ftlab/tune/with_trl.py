"""The same supervised fine-tuning by TRL's `SFTTrainer`: the one place that knows its arguments.

TRL's defaults are for GPUs (bfloat16, gradient checkpointing); on a CPU both are turned off here. Examples go in as
text, with the columns "prompt" and "completion": TRL cuts them into tokens, masks the prompt, appends the end token.
"""

import contextlib
import copy
import tempfile
import time

from ftlab.library_messages import quiet_libraries
from ftlab.model import Transformer
from ftlab.model.hub import from_hf, to_hf
from ftlab.text.examples import Example, from_tasks
from ftlab.text.template import alpaca, alpaca_response
from ftlab.text.tokenizer import BOS, Tokenizer
from ftlab.tune.sft import rate

BATCH_SIZE, LR = 16, 2e-3


def columns(examples, start=BOS):
    """Examples or tasks in Alpaca's form as [{"prompt", "completion"}, …], as SFTTrainer takes them. start: what stands
    before each prompt; tokenizers of transformers put their own start token there, if they have one."""
    examples = [e if isinstance(e, Example) else from_tasks([e])[0] for e in examples]
    return [{"prompt": start + alpaca(e.instruction, e.input), "completion": alpaca_response(e.response)}
            for e in examples]


def sft_trainer(model, tokenizer, examples, steps, folder, lr=LR, batch_size=BATCH_SIZE, seed=0, callbacks=()):
    """An `SFTTrainer` for a copy of `model` (ours as a LlamaForCausalLM): AdamW, linear decay, loss on the completion.

    lr: the rate for the shipped bases (see `ftlab.tune.sft.rate`). folder: where it may write. Its `train_dataset` holds
    "input_ids" and "labels" once it is made.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=rate(model, lr),
        lr_scheduler_type="linear", warmup_steps=max(1, steps // 20), weight_decay=0.0, max_grad_norm=1.0, seed=seed,
        completion_only_loss=True, max_length=model.config.max_position_embeddings,
        train_sampling_strategy="group_by_length",  # rows of like length share a batch, so little is padding
        use_cpu=next(model.parameters()).device.type == "cpu",
        bf16=False, fp16=False, gradient_checkpointing=False,  # float32, nothing computed twice
        logging_steps=max(1, steps // 60), save_strategy="no", report_to="none", disable_tqdm=True)  # fmt: skip
    theirs = to_hf(model) if isinstance(model, Transformer) else copy.deepcopy(model)
    data = columns(examples, BOS if isinstance(tokenizer, Tokenizer) else "")
    trainer = SFTTrainer(theirs.train(), config, train_dataset=Dataset.from_list(data),
                         processing_class=tokenizer.to_hf(), callbacks=list(callbacks))
    trainer.remove_callback(PrinterCallback)
    data = trainer.train_dataset
    if "labels" not in data.column_names:  # TRL before 1.0 keeps a mask of the completion, and labels when it batches
        labels = [[id if kept else -100 for id, kept in zip(row["input_ids"], row["completion_mask"])] for row in data]
        trainer.train_dataset = data.add_column("labels", labels)
    return trainer


def tune_with_trl(model, tokenizer, examples, steps, lr=LR, batch_size=BATCH_SIZE, seed=0, evaluate=None,
                  eval_every=None, report=None):
    """Fine-tune a copy of `model` by SFTTrainer; returns (the tuned model, of the kind that was given; what happened).

    evaluate(model, step) -> dict of numbers, each `eval_every` steps and at the end. report(text) shows progress.
    What happened: {"steps", "losses", "evals" [{"step", …}], "seconds" of training}.
    """
    from transformers import TrainerCallback

    back = from_hf if isinstance(model, Transformer) else lambda theirs: theirs
    happened = {"steps": [], "losses": [], "evals": [], "seconds": 0.0}

    class Follow(TrainerCallback):
        """Takes the losses, and stops the clock for evaluations."""

        def on_train_begin(self, args, state, control, **rest):
            self.since = time.perf_counter()

        def on_log(self, args, state, control, logs=None, **rest):
            if "loss" in (logs or {}):
                happened["steps"].append(state.global_step)
                happened["losses"].append(float(logs["loss"]))
                if report:
                    report(f"SFTTrainer: step {state.global_step} of {steps}, loss {float(logs['loss']):.3f}")

        def on_step_end(self, args, state, control, model=None, **rest):
            last = state.global_step == steps
            if evaluate and (last or eval_every and state.global_step % eval_every == 0):
                happened["seconds"] += time.perf_counter() - self.since
                happened["evals"].append({"step": state.global_step, **evaluate(back(model), state.global_step)})
                self.since = time.perf_counter()

        def on_train_end(self, args, state, control, **rest):
            happened["seconds"] += time.perf_counter() - self.since

    with quiet(), tempfile.TemporaryDirectory() as folder:
        trainer = sft_trainer(model, tokenizer, examples, steps, folder, lr, batch_size, seed, [Follow()])
        trainer.train()
        return back(trainer.model).eval(), happened


@contextlib.contextmanager
def quiet():
    """As `library_messages.quiet_libraries`, with datasets loaded, whose progress bars can then be turned off."""
    import datasets  # noqa: F401

    with quiet_libraries():
        yield
