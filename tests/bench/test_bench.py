"""Each bench runs, small, and reports rows of the agreed form; how fast anything is, no test asks."""

import importlib
import json
import math
import shutil

import pytest

from ftlab.bench import common
from ftlab.errors import UsageError
from ftlab.library_messages import quiet_libraries

PARTS = ("matrix products", "attention", "the loss", "the optimizer", "the embedding", "elementwise and the rest",
         "Python and dispatch")  # fmt: skip


def run(name):
    said = []
    result = importlib.import_module(f"ftlab.bench.{name}").run(report=said.append, quick=True)
    assert set(result) == {"machine", "rows"} and said and all(isinstance(text, str) for text in said)
    assert set(result["machine"]) == {"cores", "isa", "memory_gib", "matmul_gflops"}
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    names = [row["name"] for row in result["rows"]]
    assert len(names) == len(set(names))
    for row in result["rows"]:
        assert row["unit"] and math.isfinite(row["ours"]) and row["ours"] >= 0
        assert set(row) - {"name", "ours", "unit"} in ({"peer", "ratio"}, {"limit"}, set())
    return {row["name"]: row for row in result["rows"]}


def test_train():
    rows = run("train")
    for peer in ("transformers.Trainer", "TRL SFTTrainer"):
        for size in ("0.46 M", "2.9 M"):
            row = rows[f"train, {size}, AdamW, against {peer}"]
            assert row["ratio"] > 0 and row["peer"] > 0
    assert rows["train, 0.46 M, muon, operations against a large matrix product"]["limit"] == 0.55
    assert rows["train, 2.9 M, muon, operations against a large matrix product"]["limit"] == 0.65
    for name in ("adamw", "muon"):
        shares = [rows[f"train, 0.46 M, {name}, time in {part}"]["ours"] for part in PARTS]
        assert all(share > 0 for share in shares[:4]) and sum(shares) == pytest.approx(1, abs=0.05)
    assert rows["time to 90% hero and object, against transformers.Trainer with AdamW"]["ratio"] > 0


def test_peers_compute_our_loss_and_steps(tmp_path):
    """Same weights, same batches, same rate: the peer's weights after some steps are ours."""
    import torch

    from ftlab.bench.train import make_peer
    from ftlab.model import ModelConfig, Transformer, from_hf, to_hf
    from ftlab.text.batching import RowBatches

    torch.manual_seed(0)
    rows = [[1] + torch.randint(4, 30, (3 + i % 9,)).tolist() + [2] for i in range(40)]
    batches = RowBatches(rows, 60)
    start = Transformer(ModelConfig(30, 16, 2, 2, 24, max_position_embeddings=32))
    theirs = {peer: to_hf(start) for peer in ("transformers.Trainer", "TRL SFTTrainer")}
    with quiet_libraries():
        for peer, model in theirs.items():
            make_peer(peer, model, batches, 6, tmp_path, lr=1e-3, lr_factor=lambda step: 1.0).train()
    optimizer = torch.optim.AdamW(start.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(6):
        optimizer.zero_grad()
        start.loss(batches(step)).backward()
        torch.nn.utils.clip_grad_norm_(start.parameters(), 1.0)
        optimizer.step()
    for peer, model in theirs.items():
        for ours, p in zip(start.parameters(), from_hf(model).parameters(), strict=True):
            torch.testing.assert_close(p, ours, atol=2e-5, rtol=0, msg=lambda text, peer=peer: f"{peer}: {text}")


def test_tune():
    rows = run("tune")
    peer = "TRL SFTTrainer"
    for name in (f"tune, AdamW, against {peer}", f"tune, Muon, against {peer} with AdamW"):
        assert rows[name]["ratio"] > 0 and rows[name]["peer"] > 0
    assert rows[f"time to instruction score 0.80, against {peer} with AdamW"]["ratio"] > 0
    for name in ("readable", "fast"):
        for peer in ("PEFT LoRA, plain loop", "PEFT LoRA in our model and loop", "TRL SFTTrainer with PEFT LoRA",
                     "our full fine-tuning"):
            assert rows[f"tune, LoRA, {name}, against {peer}"]["ratio"] > 0


def test_align():
    rows = run("align")
    assert len(rows) == 3 and all(row["ratio"] > 0 for row in rows.values())
    assert any("TRL DPOTrainer" in name for name in rows)


def test_generate():
    rows = run("generate")
    assert len(rows) == 3 and all(row["ratio"] > 0 and "model.generate" in name for name, row in rows.items())


def test_widgets():
    assert [row["limit"] for row in run("widgets").values()] == [100] * 4


def test_import():
    assert [row["limit"] for row in run("import_").values()] == [0.2, 0.2]


@pytest.mark.full
def test_grade():
    if not shutil.which("bwrap"):
        pytest.skip("no sandbox without bubblewrap: apt-get install bubblewrap")
    try:
        importlib.import_module("ftlab.bench.grade").nbgrader_python()
    except UsageError as error:
        pytest.skip(str(error))
    rows = run("grade")
    for peer in ("nbgrader autograde", "plain nbval (pytest --nbval-lax)"):
        for what in ("whole", "reduced"):
            row = rows[f"grade, 2 submissions, against {peer}, {what} notebook"]
            assert row["ratio"] > 0 and row["peer"] > 0
        assert rows[f"grade --jobs 2, 2 submissions, against {peer}, whole notebook"]["ratio"] > 0
    for what in ("", ", the start of their walls counted"):
        assert rows[f"grade, 2 submissions, two Dask workers against one{what}"]["ratio"] > 0
    assert rows["grade, memory of the grader, 4 submissions to 2"]["limit"] == 1.1
    assert rows["grade, peak memory of the grader, 2 submissions"]["ours"] > 20


def test_rows_and_turns():
    assert common.against("x", 2.0, 8.0, "s", higher_is_better=False)["ratio"] == 4
    assert common.against("x", 2.0, None, "s") == {"name": "x", "ours": 2.0, "peer": None, "ratio": None, "unit": "s"}
    row = common.paired("x", [2.0, 3.0, 10.0], [1.0, 1.0, 1.0], "t/s")
    assert (row["ours"], row["peer"], row["ratio"]) == (3.0, 1.0, 3.0)
    order = []
    runners = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    assert common.take_turns(runners, 3) == {name: [1.0] * 3 for name in "abc"}
    assert "".join(order) == "abcbcacab"
