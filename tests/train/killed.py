"""The run that test_resume kills: started once, it forks a fresh run at each line it reads, and says how that ended.

Usage: python killed.py OUT PROGRESS. Reads "go" lines; answers "pid N" and, when the run is over, "end STATUS".
"""

import os
import sys

import torch
from conftest import tiny_model, tiny_rows

from ftlab.text.batching import RowBatches
from ftlab.train import TrainConfig, train

CONFIG = TrainConfig(steps=60, lr=5e-3, optimizer="muon", save_every=4, eval_every=5, clip=0.5, seed=1)


def run(out, progress):
    """Train; each event goes to the progress file at once. The final weights are written beside it."""
    torch.set_num_threads(1)
    model = tiny_model()
    log = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(event):
        if event["kind"] in ("start", "step"):
            os.write(log, f"{event['kind']} {event['step']}\n".encode())

    def noisy(model, batch):  # draws from torch's generator, whose state must be resumed as well
        return model.loss(batch) * (1 + 0.1 * torch.rand(()))

    def evaluate(model, step):
        with torch.no_grad():
            return {"loss": model.loss(RowBatches(tiny_rows(5, seed=9), 100)(0)).item(), "draw": torch.rand(()).item()}

    history = train(model, RowBatches(tiny_rows(), 60), CONFIG, loss=noisy, evaluate=evaluate, callbacks=[tell], out=out)
    torch.save({"model": model.state_dict(), "steps": history.steps, "losses": history.losses, "lrs": history.lrs,
                "evals": history.evals, "tokens": history.tokens}, progress + ".result")  # fmt: skip


def main(out, progress):
    """Fork for each line: torch is imported once, and no thread of it runs yet."""
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                run(out, progress)
            except BaseException as error:
                print("failed:", repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print("pid", child, flush=True)
        print("end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
