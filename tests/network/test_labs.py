"""Labs that start from a model of the Hub (FTLAB_BASE): without a network they run on the shipped base, and say so once."""

import pytest
from network import hub_server

from ftlab import online
from ftlab.tune import bases


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", [hub_server.black_hole(), hub_server.status(503), hub_server.status(401, "GatedRepo")])
def test_a_lab_runs_on_the_shipped_base(hub, fault, monkeypatch, capsys):
    monkeypatch.setattr(online, "SECONDS", 0.3)
    monkeypatch.setenv("FTLAB_BASE", "someone/a-base")
    monkeypatch.setattr(bases, "_missed", set())
    hub.faults["/api/"] = fault
    model, tokenizer = bases.lab_base("base-small")
    shipped, _ = bases.load_base("base-small")
    assert model.num_parameters() == shipped.num_parameters() and tokenizer.encode("a red hat")
    bases.lab_base("base-small")
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "someone/a-base" in said and "shipped" in said
    assert len(hub.asked("/api/models/someone/a-base")) == 1, "the Hub is asked once"
