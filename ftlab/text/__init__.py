"""Text to tokens to batches. (Import `ftlab.text.batching` for batches: it needs torch.)"""

from ftlab.text.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
