import json
import math
import random
import statistics

import pytest

from ftlab.errors import UsageError
from ftlab.measure.claims import (
    Claim,
    ledger_row,
    live_result,
    load_study,
    run_study,
    study_text,
    t_interval,
    t_quantile,
    verdict,
)  # fmt: skip

# 0.975 quantiles of Student's t, from printed tables.
QUANTILES = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 10: 2.2281, 30: 2.0423, 120: 1.9799}


def claim(**changes):
    fields = {
        "id": "C05", "kind": "measured", "lab": "01_x", "statement": "It is so.", "metric": "share",
        "at_least": 0.5, "measure": lambda seed, report: {"value": 0.6 + seed / 100, "detail": [seed]},
    }  # fmt: skip
    return Claim(**(fields | changes))


def run(claims, folder, seeds=None):
    said = []
    run_study(claims, seeds, folder, said.append, lambda: {"cores": 2})
    return said


@pytest.mark.parametrize(("degrees", "quantile"), QUANTILES.items())
def test_t_quantiles(degrees, quantile):
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1e-4)


def test_interval():
    mean, low, high = t_interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == (2.0, pytest.approx(2 - 2.4841, abs=1e-4), pytest.approx(2 + 2.4841, abs=1e-4))
    assert t_interval([1.0]) == (1.0, None, None)


def test_a_number_of_all_seeds_together_has_an_interval_of_its_own(tmp_path):
    def widest(runs):
        values = [run["value"] for run in runs]
        return max(values), min(values), max(values)

    made = claim(interval=widest, at_least=0.595)
    run([made], tmp_path, seeds=2)
    assert ledger_row(made, tmp_path)["holds"] is None  # too few seeds for a verdict
    run([made], tmp_path, seeds=4)
    row = ledger_row(made, tmp_path)
    assert (row["value"], row["low"], row["high"], row["holds"]) == (0.63, 0.6, 0.63, True)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    random.seed(0)
    samples = [[random.gauss(3, 2) for _ in range(4)] for _ in range(2000)]
    hits = [low <= 3 <= high for _, low, high in map(t_interval, samples)]
    assert statistics.fmean(hits) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("bounds", "values", "holds"),
    [
        ({"at_least": 0.5}, [0.6, 0.61, 0.62], True),
        ({"at_least": 0.5}, [0.51, 0.7, 0.9], False),  # the mean clears the bound, the interval does not
        ({"at_least": 0.5}, [0.6, 0.61], None),  # too few seeds for a verdict
        ({"at_least": None, "at_most": 0.5}, [0.1, 0.11, 0.12], True),
        ({"at_least": None, "at_most": 0.1}, [0.1, 0.11, 0.12], False),
        ({"at_least": 0.0, "at_most": 0.2}, [0.1, 0.11, 0.12], True),
        ({"at_least": 0.5}, [], None),
        ({"kind": "report", "at_least": None}, [1.0, 2.0, 3.0], None),
        ({"kind": "exact", "at_least": None, "at_most": 1e-5}, [1e-7], True),
        ({"kind": "exact", "at_least": None, "at_most": 1e-5}, [1e-7, 1e-4], False),
    ],
)
def test_verdicts(bounds, values, holds):
    assert verdict(claim(**bounds), values)["holds"] is holds


def test_an_exact_claims_value_is_its_worst_run():
    assert verdict(claim(kind="exact", at_least=None, at_most=1.0), [0.1, 0.3])["value"] == 0.3
    assert verdict(claim(kind="exact", at_least=0.0), [0.1, 0.3])["value"] == 0.1


def test_a_study_runs_what_is_missing_and_goes_on_where_it_stopped(tmp_path):
    seen, stops = [], [2]

    def measure(seed, report):
        if seed in stops:
            stops.remove(seed)
            raise KeyboardInterrupt
        seen.append(seed)
        report("half way")
        return {"value": seed}

    stopped = claim(measure=measure)
    with pytest.raises(KeyboardInterrupt):
        run([stopped], tmp_path)
    assert [entry["seed"] for entry in load_study(stopped, tmp_path)["runs"]] == [0, 1]
    assert any("half way" in line for line in run([stopped], tmp_path))
    assert seen == [0, 1, 2]
    assert run([stopped], tmp_path) == ["nothing to do: every run is there"]
    run([stopped], tmp_path, seeds=5)
    assert seen == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["C05.json"]


def test_claims_go_seed_by_seed_so_that_they_can_share_runs(tmp_path):
    order = []

    def measured(id):
        return claim(id=id, measure=lambda seed, report: order.append((seed, id)) or {"value": 1})

    run([measured("C05"), measured("C06")], tmp_path)
    assert order == [(seed, id) for seed in range(3) for id in ("C05", "C06")]


def test_a_new_version_drops_the_old_runs(tmp_path):
    run([claim()], tmp_path)
    assert ledger_row(claim(version=2), tmp_path)["value"] is None
    run([claim(version=2, seeds=4)], tmp_path)
    assert ledger_row(claim(version=2), tmp_path)["seeds"] == 4


def test_a_value_that_is_no_number_is_not_saved(tmp_path):
    with pytest.raises(UsageError, match="nan"):
        run([claim(measure=lambda seed, report: {"value": math.nan})], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_study_is_named(tmp_path):
    (tmp_path / "C05.json").write_text("{")
    with pytest.raises(UsageError, match="C05.json"):
        ledger_row(claim(), tmp_path)


def test_the_ledgers_fields(tmp_path):
    run([claim()], tmp_path)
    row = ledger_row(claim(), tmp_path)
    fields = "id kind lab statement metric value low high seeds threshold holds note".split()
    assert set(fields) <= set(row)
    assert (row["seeds"], row["threshold"], row["holds"]) == (3, 0.5, True)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert study_text(row) == "Study: 0.61, 95 % interval 0.5852 to 0.6348, over 3 seeds: holds"
    empty = ledger_row(claim(id="C06"), tmp_path)
    assert (empty["value"], empty["holds"], empty["seeds"]) == (None, None, 0)
    assert "ftlab study C06" in study_text(empty)
    assert ledger_row(claim(at_most=1.0), tmp_path)["threshold"] == [0.5, 1.0]


def test_a_labs_run_stands_beside_the_study(tmp_path):
    run([claim()], tmp_path)
    shown = live_result(claim(), 0.4, {"curve": [1.0, 2.0]}, tmp_path, fast=False)
    assert shown["mark"] == "holds", "the study decides, not the one live run"
    assert shown["json"]["value"] == 0.4 and shown["json"]["holds"] is None and shown["json"]["study"]["holds"]
    assert shown["json"]["data"] == {"curve": [1.0, 2.0]}
    exact = claim(id="C06", kind="exact", at_least=None, at_most=1e-5)
    assert live_result(exact, 1.0, {}, tmp_path, fast=False)["mark"] == "fails"
    assert live_result(exact, 1e-6, {}, tmp_path, fast=False)["mark"] == "holds"
    fast = live_result(exact, 1.0, {}, tmp_path, fast=True)
    assert fast["mark"] == "note" and fast["json"]["holds"] is None
    with pytest.raises(UsageError):
        live_result(exact, "a lot", {}, tmp_path, fast=False)


@pytest.mark.parametrize(
    "changes",
    [{"id": "5"}, {"kind": "guess"}, {"at_least": None}, {"kind": "report"}, {"seeds": 2}],
)
def test_a_claim_must_be_complete(changes):
    with pytest.raises(UsageError):
        claim(**changes)
