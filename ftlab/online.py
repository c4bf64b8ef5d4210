"""The Hugging Face Hub, which may be far, slow, shut or broken: every request of ours starts here, and none hangs.

Whether the Hub answers is known within five seconds; a transfer in which nothing arrives for STALL seconds is given up;
what is kept of a download is whole, by its size and its hash. What goes wrong is an `Unavailable`, one line that says what to
do. A model that is in the cache already is taken from there and the Hub is not asked: to fetch it anew, delete it there.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import queue
import re
import threading

from ftlab.errors import UsageError
from ftlab.profile import ON

SECONDS = 4.5  # for the Hub's first answer: the course promises five
STALL = 120.0  # seconds; a line of 1 Mbit/s brings the next piece of a file, 10 MiB, before that
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_DONE = object()


class Unavailable(UsageError):
    """What was asked for cannot be had from the Hub now."""


def offline():
    """Whether HF_HUB_OFFLINE keeps the Hub out: by the rule of the Hub's own client, for which any other value is "no"."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ON


def ask(name, kind, otherwise):
    """The Hub's record of `name`, a "model" or a "dataset". otherwise: what to do without it, for the error's end.

    Raises Unavailable within SECONDS when the Hub does not answer, has none of that name, or does not show it to us.
    """
    if offline():
        raise Unavailable(f"{name}: not here, and HF_HUB_OFFLINE keeps the Hub out: {otherwise}")
    from huggingface_hub import HfApi

    question = getattr(HfApi(endpoint=_endpoint()), f"{kind}_info")

    def record(put):
        put(question(name, timeout=SECONDS, files_metadata=True))

    with _one_line(name, kind, otherwise, reached=False):
        return next(_watched(record, SECONDS))


def model(name, otherwise):
    """The folder of model `name` ("owner/name") in the Hub's cache, with all that loading it takes; fetched if need be."""
    folder = _cached(name)
    if folder is None:
        record = ask(name, "model", otherwise)
        with _one_line(name, "model", otherwise), _quiet():
            for path in _watched(lambda put: _fetch(name, _files(record), put), STALL):
                folder = path.parent if path is not None else folder
    if folder is None:
        raise Unavailable(f"{name}: the Hub's model holds no file that could be loaded: {otherwise}")
    return folder


def rows(name, config, otherwise, say=lambda line: None):
    """The rows of the Hub's data set `name`, one by one as they arrive: dicts. config: its part, or None.

    Of the split "train", else of the first whose name begins so ("train_sft"); say: called with a line that names it then.
    """
    ask(name, "dataset", otherwise)
    try:
        import datasets
    except ImportError:
        raise UsageError("reading from the Hub needs the package datasets: pip install datasets") from None

    def read(put):
        try:
            found = datasets.load_dataset(name, config or None, split="train", streaming=True)
        except ValueError as error:
            split = _training_split(str(error))
            if split is None:
                raise
            say(f"{name}: no split \"train\"; read {split}")
            found = datasets.load_dataset(name, config or None, split=split, streaming=True)
        for row in found:
            put(row)

    with _one_line(name, "dataset", otherwise), _quiet():
        yield from _watched(read, STALL)


def _training_split(error):
    """The first split for training that the client's error about a missing one lists, or None."""
    listed = re.search(r"(?:Available splits:|Should be one of) \[([^\]]*)\]", error)
    names = re.findall(r"['\"]([^'\"]+)['\"]", listed.group(1)) if listed else []
    return next((name for name in names if name.startswith("train")), None)


# ---- a model's files


def _cached(name):
    """The folder of a model that lies in the cache whole, or None. Without one file its loading would ask the Hub."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        return None
    folder = pathlib.Path(config).parent
    shards = set()
    for index in folder.glob("*.index.json"):
        shards |= set(re.findall(r'"([^"]+\.(?:safetensors|bin))"', index.read_text(encoding="utf-8")))
    weights = shards or [path.name for path in (*folder.glob("*.safetensors"), *folder.glob("*.bin"))]
    whole = weights and all((folder / shard).exists() for shard in weights)
    return folder if whole and any((folder / file).exists() for file in _TOKENIZERS) else None


def _files(record):
    """Those files of a model's record that loading it takes, as the Hub's siblings; config.json last.

    That is what tells a whole model in the cache from a part. Weights stand there once, as safetensors where there are any.
    """
    top = [file for file in record.siblings or () if "/" not in file.rfilename]
    tensors = [file for file in top if file.rfilename.endswith(".safetensors")]
    weights = [file for file in tensors if file.rfilename.startswith("model")] or tensors
    weights = weights or [file for file in top if re.fullmatch(r"pytorch_model.*\.bin", file.rfilename)]
    texts = [file for file in top if file.rfilename.endswith((".json", ".txt", ".model", ".jinja"))]
    return sorted([*texts, *weights], key=lambda file: (file.rfilename == "config.json", file.rfilename))


def _fetch(name, files, put):
    """Puts the path of each of `files` when it has arrived, and None with each piece of one.

    A cut connection is taken up again by the client, where it broke; of a download that fails for good nothing is kept.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        """The client's own bar, that also says that something came."""

        def update(self, n=1):
            put(None)
            return super().update(n)

    for file in files:
        had = isinstance(try_to_load_from_cache(name, file.rfilename), str)
        path = pathlib.Path(hf_hub_download(name, file.rfilename, endpoint=_endpoint(), tqdm_class=Bar))
        if not had:
            _verify(path, file)
        put(path)


def _verify(path, file):
    """Remove what arrived and raise OSError unless it has the size and the hash that the Hub's record says."""
    digest = hashlib.sha256() if file.lfs else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            digest.update(piece)
    wanted = file.lfs["sha256"] if file.lfs else file.blob_id
    if wanted in (None, digest.hexdigest()) and file.size in (None, path.stat().st_size):
        return
    for place in {path.resolve(), path}:
        place.unlink(missing_ok=True)
    raise OSError(f"{file.rfilename} arrived damaged and was not kept")


# ---- nothing hangs


def _watched(work, seconds):
    """What `work(put)` puts, one by one, while it runs in a thread; TimeoutError when nothing comes for `seconds`.

    A thread, since looking up a host's name, and an answer that drips byte by byte, obey no timeout. Once nobody waits for
    it any more, the next `put` ends it.
    """
    queued, given_up = queue.Queue(maxsize=64), threading.Event()

    def put(item, error=None):
        while not given_up.is_set():
            with contextlib.suppress(queue.Full):
                return queued.put((item, error), timeout=0.1)
        raise _GivenUp

    def run():
        with contextlib.suppress(_GivenUp):
            try:
                work(put)
                put(_DONE)
            except Exception as error:  # whatever it is, it is the other thread's to see
                put(_DONE, error)

    threading.Thread(target=run, name="ftlab-online", daemon=True).start()
    try:
        while True:
            try:
                item, error = queued.get(timeout=seconds)
            except queue.Empty:
                _hang_up()
                raise TimeoutError(f"nothing came for {seconds:.1f} s") from None
            if error is not None:
                raise error
            if item is _DONE:
                return
            yield item
    finally:
        given_up.set()


def _hang_up():
    """Close the client's connections, so that a thread that nobody waits for lets go of its file."""
    from huggingface_hub import close_session

    close_session()


class _GivenUp(BaseException):
    """Ends the thread that nobody waits for; no handler of the client's takes it for an error of the network."""


@contextlib.contextmanager
def _quiet():
    """Without what the client logs of its tries: what matters of them is our one line."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets", "httpx", "fsspec")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _endpoint():
    """The Hub's address. The client reads HF_ENDPOINT when it is imported, we whenever it is asked."""
    return os.environ.get("HF_ENDPOINT") or None


# ---- one line


@contextlib.contextmanager
def _one_line(name, kind, otherwise, reached=True):
    """Turn whatever the client raises into an Unavailable. reached: whether the Hub has answered before."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # the client, its HTTP library and datasets raise dozens of kinds
        raise Unavailable(f"{name}: {_explained(error, kind, otherwise, reached)}") from error


def _explained(error, kind, otherwise, reached):
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    kind = {"dataset": "data set"}.get(kind, kind)
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = f"status {status}" if status else " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, GatedRepoError):
        return f"access to this {kind} must be asked for on its page on the Hub: then run `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return f"not here, and no public {kind} of the Hub (for a private one, run `hf auth login`): {otherwise}"
    if status in (401, 403):
        return f"the Hub does not show it to us: run `hf auth login`, or {otherwise}"
    if isinstance(error, (ValueError, LookupError)):
        return f"the Hub's {kind} cannot be read: {reason}"
    if not reached and not status:
        return f"not here, and the Hub cannot be reached ({reason}): {otherwise}"
    return f"the Hub has it, but it could not be fetched ({reason}): run the same again, or {otherwise}"
