"""The sweep's settings, its file, its resuming; the U's best rate and edges."""

import collections
import json
import math

import pytest

from ftlab.train import sweeps


def test_one_factor_at_a_time():
    settings = sweeps.settings_of_sweep()
    names = [sweeps.name_of(s) for s in settings]
    assert len(names) == len(set(names)) <= 400
    for s in settings:
        assert sum(s[name] != value for name, value in sweeps.BASE.items()) <= 1
    counts = collections.Counter(s["rate"] for s in settings)
    assert set(counts) == set(sweeps.RATES) and len(set(counts.values())) == 1
    for name, values in sweeps.FACTORS.items():
        assert {s[name] for s in settings} == set(values)


def test_a_sweep_is_resumed_run_by_run(tmp_path, monkeypatch):
    made = []

    def fake(settings, steps):
        made.append(sweeps.name_of(settings))
        if len(made) == 4:
            raise KeyboardInterrupt
        return {**settings, "start": 6.0, "losses": [6.0, 5.0], "final": 5.0, "steps": steps, "diverged_at": None,
                "seconds": 0.1}

    def one_by_one(todo, jobs, steps, began, report):
        for settings in todo:
            yield fake(settings, steps)

    monkeypatch.setattr(sweeps, "_results", one_by_one)
    some = sweeps.settings_of_sweep()[:6]
    with pytest.raises(KeyboardInterrupt):
        sweeps.make_sweep(tmp_path / "out.json", tmp_path / "work.json", steps=8, settings=some)
    assert not (tmp_path / "out.json").exists()
    data = sweeps.make_sweep(tmp_path / "out.json", tmp_path / "work.json", steps=8, settings=some)
    assert collections.Counter(made) == collections.Counter([sweeps.name_of(s) for s in some] + [made[3]])
    assert [sweeps.name_of(run) for run in data["runs"]] == [sweeps.name_of(s) for s in some]
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(data))
    other = sweeps.make_sweep(tmp_path / "out.json", tmp_path / "work.json", steps=9, settings=some[:1])
    assert other["runs"][0]["steps"] == 9, "runs of another length were taken over"


@pytest.mark.slow
def test_runs_in_processes_are_the_runs_here(tmp_path):
    some = [{"rate": rate, **sweeps.BASE} for rate in (0.004, 0.016)]
    said = []
    data = sweeps.make_sweep(tmp_path / "out.json", tmp_path / "work.json", 2, 6, some, said.append)
    assert len(said) == 2 and "run 2 of 2" in said[1] and "ETA" in said[1]
    here = sweeps.sweep_run(some[1], 6)
    assert data["runs"][1]["losses"] == pytest.approx(here["losses"], abs=2e-3)
    assert data["runs"][1]["final"] == pytest.approx(here["final"], abs=2e-3) and len(here["losses"]) == 6


def test_a_run_whose_loss_is_no_number_is_kept():
    run = sweeps.short_run(0, 1e20, optimizer="adamw", steps=6, clip=None)
    assert run["final"] is None and run["diverged_at"] is not None and all(map(math.isfinite, run["losses"]))
    json.dumps(run, allow_nan=False)


def test_the_committed_sweep_is_whole():
    data = sweeps.load_sweep()
    settings = sweeps.settings_of_sweep()
    assert [sweeps.name_of(run) for run in data["runs"]] == [sweeps.name_of(s) for s in settings]
    assert (data["version"], data["steps"]) == (sweeps.VERSION, sweeps.STEPS)
    assert sweeps.PLACE.stat().st_size < 3e6
    assert all(len(run["losses"]) == sweeps.POINTS for run in data["runs"] if run["final"] is not None)


def test_thin():
    assert sweeps.thin([4.0, 2.0, 1.0, 1.0], 4, 2) == [3.0, 1.0]
    assert sweeps.thin([4.0, 2.0], 4, 2) == [3.0]  # broke off half way
    assert sweeps.thin([4.0, 2.0], 2, 48) == [4.0, 2.0]
    assert len(sweeps.thin([1.0] * 1000, 1000)) == sweeps.POINTS


RATES = [0.01 * 2**i for i in range(5)]


def parabola(vertex):
    return [0.5 + 0.1 * (math.log2(rate / vertex)) ** 2 for rate in RATES]


@pytest.mark.parametrize("vertex", [0.017, 0.04, 0.09])
def test_best_rate_is_the_vertex(vertex):
    assert sweeps.best_rate(RATES, parabola(vertex)) == pytest.approx(vertex)


def test_best_rate_at_edges_and_beside_diverged_runs():
    assert sweeps.best_rate(RATES, [1.0, 2.0, 3.0, 4.0, 5.0]) == 0.01
    assert sweeps.best_rate(RATES, [3.0, 2.0, 1.0, None, math.nan]) == 0.04
    with pytest.raises(ValueError, match="diverged"):
        sweeps.best_rate(RATES, [None] * 5)


def test_edges():
    low, high = sweeps.edges(RATES, [1.0, 0.5, 0.4, 0.6, 2.0], rise=0.1)
    assert low == pytest.approx(0.02) and high == pytest.approx(0.04 * 2**0.5)
    assert sweeps.edges(RATES, [0.45, 0.4, 0.41, 0.42, None], rise=0.1) == (None, pytest.approx(0.08))
