"""What libraries print that tells a reader of this course nothing: kept from notebooks and from the command line.

`hide_known` (importing ftlab calls it) hides messages by their logger and text, or by the library that they are about, and
nothing else: errors, and warnings that something is computed wrongly, are shown. `quiet_libraries` goes further while a
library works for us: no advice, no progress bars.
"""

import contextlib
import logging
import os
import re
import sys
import warnings

# Logger: the beginnings of its messages that are hidden, as regular expressions. Each says why it is harmless.
LOGS = {
    # On a processor with AVX-512-BF16. Without that kernel bitsandbytes uses its own; our layers use neither.
    "bitsandbytes.backends.cpu.ops": (r"Failed to load CPU gemm_4bit_forward",),
    # CUDA libraries of one major version serve each other; `ftlab doctor` reports where there is none.
    "bitsandbytes.cextension": (r"No prebuilt binary for \w+ [\d.]+, loading",),
    # Once on each machine, and wherever the home folder cannot be written.
    "matplotlib.font_manager": (r"Matplotlib is building the font cache",),
    "matplotlib": (r"Matplotlib created a temporary cache directory", r"mkdir -p failed for path"),
    # We choose the loss, count the tokens and name the end tokens ourselves.
    "transformers.modeling_utils": (r"`loss_type=\w+` was set in the config but it is unrecognized",
                                    r"`torch_dtype` is deprecated"),
    "transformers.configuration_utils": (r"`torch_dtype` is deprecated",),
    "transformers.tokenization_utils_base": (r"Token indices sequence length is longer than",),
    "transformers.trainer_utils": (r"The tokenizer has new PAD/BOS/EOS tokens",),
    "transformers.generation.configuration_utils": (r"The following generation flags are not valid and may be ignored",),
    "transformers.generation.utils": (r"Setting `pad_token_id` to `eos_token_id`",),
}  # fmt: skip
# Warnings that are hidden: (category, the text's beginning as a regular expression).
WARNINGS = (
    (UserWarning, r"Could not find a config file in .* - will assume that the vocabulary was not modified"),
    (UserWarning, r"fan_in_fan_out is set to (False but the target module is `Conv1D`|True but the target module is "
                  r"`torch\.nn\.Linear`)"),  # peft sets it rightly itself
    (UserWarning, r"'pin_memory' argument is set as true but no accelerator is found"),
    (UserWarning, r"Sparse CSR tensor support is in beta state"),
)  # fmt: skip
# Libraries whose deprecations concern their authors, where one of their own modules is what calls the deprecated part.
LIBRARIES = ("accelerate", "bitsandbytes", "datasets", "huggingface_hub", "jupyter_client", "peft", "tokenizers", "torch",
             "transformers", "trl")  # fmt: skip
DEPRECATIONS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)


class _Known(logging.Filter):
    """Drops a record below ERROR whose message begins as one of `patterns` says."""

    def __init__(self, patterns):
        super().__init__()
        self.known = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))

    def filter(self, record):
        return record.levelno >= logging.ERROR or not self.known.match(record.getMessage())


def hide_known():
    """Hide the messages of LOGS, WARNINGS and LIBRARIES in this process; called again, changes nothing."""
    for name, patterns in LOGS.items():
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Known) for one in logger.filters):
            logger.addFilter(_Known(patterns))
    _hide_warnings(WARNINGS, DEPRECATIONS)


def _hide_warnings(known, categories):
    """Hide the warnings `known`, and those of `categories` that a module of LIBRARIES is told of."""
    for category, text in known:
        warnings.filterwarnings("ignore", text, category)
    modules = rf"({'|'.join(LIBRARIES)})(\.|$)"
    for category in categories:
        warnings.filterwarnings("ignore", category=category, module=modules)


@contextlib.contextmanager
def quiet_libraries():
    """datasets, transformers, trl and peft without advice, progress bars and warnings of theirs; restored on exit.

    Errors are shown, and so are torch's warnings: they may say that something is computed wrongly.
    """
    names = ("accelerate", "datasets", "peft", "transformers", "trl")
    levels = {name: logging.getLogger(name).level for name in names}
    tqdm = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # TRL's own bars look there
    for name in names:
        logging.getLogger(name).setLevel(max(logging.ERROR, levels[name]))
    try:
        with _without_bars(), warnings.catch_warnings():
            modules = rf"({'|'.join(name for name in LIBRARIES if name != 'torch')})(\.|$)"
            warnings.filterwarnings("ignore", module=modules)
            _hide_warnings(WARNINGS, DEPRECATIONS)  # again: whoever called may have set filters of their own
            yield
    finally:
        os.environ.pop("TQDM_DISABLE", None)
        if tqdm is not None:
            os.environ["TQDM_DISABLE"] = tqdm
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _without_bars():
    """Without the progress bars of transformers, and of datasets where it is loaded; restored on exit."""
    import transformers

    datasets, bars = sys.modules.get("datasets"), transformers.logging.is_progress_bar_enabled()
    their_bars = datasets is not None and not datasets.are_progress_bars_disabled()
    transformers.logging.disable_progress_bar()
    if their_bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            transformers.logging.enable_progress_bar()
        if their_bars:
            datasets.enable_progress_bars()
