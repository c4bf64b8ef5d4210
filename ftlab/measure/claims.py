"""Claims: what the course says is so, how it is measured over seeds, and whether it holds.

A claim's study is a small committed file, one run a seed; the ledger is computed from these files and nothing else.
"""

import dataclasses
import math
import pathlib
import re
import statistics
import time
from collections.abc import Callable

from ftlab.errors import UsageError
from ftlab.files import read_json, write_json
from ftlab.numbers import finite

KINDS = ("exact", "measured", "report")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of fact that a cell or a study measures.

    id: "C03". lab: the lab that shows it. statement: one sentence. metric: what the number is, with its unit.
    kind: "exact" (an identity or a count: every run within the bounds), "measured" (the 95 % interval of the mean over
        at least three seeds within the bounds), "report" (a number worth knowing, no verdict).
    at_least, at_most: the bounds, margin included, fixed before the run. A report has none.
    measure: function of (seed, report) that returns dict(value=float, **data); `report(text)` shows progress.
        Where two things are compared, the value is their paired difference or ratio within the seed.
    interval: function of all runs of a study (as `load_study` has them) -> (value, low, high), where the number belongs to
        the seeds together, as a ratio of their spreads does; by default Student's t of the runs' values.
    seeds: how many seeds a study takes when not told. version: raise it when `measure` changes; older runs then go.
    """

    id: str
    kind: str
    lab: str
    statement: str
    metric: str
    measure: Callable
    at_least: float | None = None
    at_most: float | None = None
    seeds: int = 3
    unit: str = ""
    note: str = ""
    version: int = 1
    interval: Callable | None = None

    def __post_init__(self):
        bounded = self.at_least is not None or self.at_most is not None
        if not re.fullmatch(r"[CMX]\d\d[a-z]?", self.id):
            raise UsageError(f"claim {self.id!r}: an id is C, M or X, two digits, and a letter where it has parts")
        if self.kind not in KINDS or bounded == (self.kind == "report"):
            raise UsageError(f"claim {self.id}: kind is one of {', '.join(KINDS)}; all but a report have a bound")
        if self.kind == "measured" and self.seeds < 3:
            raise UsageError(f"claim {self.id}: a measured claim takes at least 3 seeds")

    def within(self, low, high):
        """Whether all of [low, high] is inside the bounds."""
        above = self.at_least is None or low >= self.at_least
        return bool(above and (self.at_most is None or high <= self.at_most))

    def threshold(self):
        """The bound as JSON: a number, [low, high] where there are two, None for a report."""
        bounds = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        return (bounds or [None])[0] if len(bounds) < 2 else bounds

    def threshold_text(self):
        """The bounds in words; "" for a report."""
        parts = [f"at least {format_value(self.at_least, self.unit)}"] if self.at_least is not None else []
        parts += [f"at most {format_value(self.at_most, self.unit)}"] if self.at_most is not None else []
        return " and ".join(parts)


def t_interval(values):
    """(mean, low, high): the 95 % interval of the mean by Student's t; low and high are None below 2 values. Raises
    UsageError where there is no value, or one is NaN or infinite."""
    _check_values(values)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None, None
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _check_values(values):
    if not len(values) or not all(finite(value) for value in values):
        raise UsageError(f"no mean and no interval of {list(values)[:5]}: at least one value is needed, and all must be finite "
                         "numbers; measure again")


def t_quantile(degrees):
    """The 0.975 quantile of Student's t: solved from its closed-form distribution for integer degrees of freedom."""
    low, high = 1.9, 13.0  # the quantile is 12.71 at one degree and falls to 1.96
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_two_sided(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def _t_two_sided(t, degrees):
    """P(|T| < t), Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, odd = math.cos(angle), degrees % 2
    term, total = (cosine, cosine) if odd else (1.0, 1.0)
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        return 2 / math.pi * (angle + (math.sin(angle) * total if degrees > 1 else 0.0))
    return math.sin(angle) * total


def verdict(claim, runs):
    """dict(value, low, high, holds) of a claim from its runs, or their values; all None where nothing was measured."""
    values = [run["value"] if isinstance(run, dict) else run for run in runs]
    if not values:
        return {"value": None, "low": None, "high": None, "holds": None}
    _check_values(values)
    mean, low, high = claim.interval(runs) if claim.interval and len(values) >= 3 else t_interval(values)
    if claim.kind == "exact":
        low, high = min(values), max(values)
        # The worst run is the exact claim's value: an identity must hold every time.
        value = low if claim.at_most is None else high
        return {"value": value, "low": low, "high": high, "holds": claim.within(low, high)}
    judged = claim.kind == "measured" and len(values) >= 3
    return {"value": mean, "low": low, "high": high, "holds": claim.within(low, high) if judged else None}


def load_study(claim, folder):
    """The claim's study: dict(claim, version, machine, runs[dict(seed, value, seconds, data)]); no runs if none fit."""
    path = pathlib.Path(folder) / f"{claim.id}.json"
    empty = {"claim": claim.id, "version": claim.version, "machine": None, "runs": []}
    if not path.exists():
        return empty
    try:
        study = read_json(path)
        return study if study["version"] == claim.version else empty
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"the study {path.name} is damaged: restore it, or delete it and run ftlab study") from None


def ledger_row(claim, folder):
    """The claim as a line of the ledger, a JSON dict."""
    study = load_study(claim, folder)
    row = {"id": claim.id, "kind": claim.kind, "lab": claim.lab, "statement": claim.statement, "metric": claim.metric}
    row |= verdict(claim, study["runs"])
    return row | {"seeds": len(study["runs"]), "threshold": claim.threshold(), "direction": _direction(claim),
                  "unit": claim.unit, "note": claim.note}  # fmt: skip


def run_study(claims, seeds, folder, report, machine):
    """Run every claim on seeds 0, 1, ... (`seeds` of them, each claim's own number when None), but for what is there.

    Each run is saved as it ends, so that a stopped study goes on where it was. report(text) shows progress.
    machine: function that measures the machine, called once, when something runs.
    """
    todo = [(seed, claim) for claim in claims for seed in range(seeds or claim.seeds)
            if seed not in {run["seed"] for run in load_study(claim, folder)["runs"]}]  # fmt: skip
    todo.sort(key=lambda pair: pair[0])  # claims that share a run in a study module then find it fresh
    report(f"{len(todo)} runs to do" if todo else "nothing to do: every run is there")
    here, began = machine() if todo else None, time.perf_counter()
    for number, (seed, claim) in enumerate(todo):
        name = f"{claim.id}, seed {seed}"
        start = time.perf_counter()
        result = dict(claim.measure(seed, lambda text, name=name: report(f"{name}: {text}")))
        value = float(result.pop("value"))
        if not math.isfinite(value):
            raise UsageError(f"{name} gave {value}: mend the measurement; nothing was saved for it")
        seconds = round(time.perf_counter() - start, 2)
        _save_run(claim, folder, here, {"seed": seed, "value": value, "seconds": seconds, "data": result})
        left = (time.perf_counter() - began) / (number + 1) * (len(todo) - number - 1)
        done = f"{number + 1} of {len(todo)}, about {left:.0f} s left"
        report(f"{name}: {format_value(value, claim.unit)} in {seconds:.0f} s; {done}")


def live_result(claim, value, data, folder, fast):
    """What a lab shows for a claim: dict(value, mark, study_text, json). Raises UsageError when value is no number."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"claim {claim.id}: the value must be a number, not {type(value).__name__}") from None
    row = ledger_row(claim, folder)
    holds = claim.within(value, value) if claim.kind == "exact" and not fast else None
    judged = row["holds"] if holds is None else holds  # one live run judges an exact claim, no other
    mark = "note" if fast else {None: "report", True: "holds", False: "fails"}[judged]
    study = {key: row[key] for key in ("value", "low", "high", "seeds", "holds")}
    record = {"id": claim.id, "kind": claim.kind, "value": _plain(value), "threshold": row["threshold"],
              "holds": holds, "study": study}  # fmt: skip
    if data:
        record["data"] = {name: _plain(item) for name, item in data.items()}
    return {"value": value, "mark": mark, "study_text": study_text(row), "json": record}


def study_text(row):
    """A ledger row's result in words: "Study: 0.93 [0.91, 0.95] over 5 seeds; holds"."""
    if row["value"] is None:
        return f"Study: not measured yet (ftlab study {row['id']})"
    text = f"Study: {format_value(row['value'], row['unit'])}"
    if row["low"] is not None and row["seeds"] > 1:
        name = "worst to best" if row["kind"] == "exact" else "95 % interval"
        text += f", {name} {format_value(row['low'])} to {format_value(row['high'])},"
    text += f" over {row['seeds']} seed{'s' if row['seeds'] != 1 else ''}"
    if row["holds"] is not None:
        text += ": holds" if row["holds"] else ": does not hold"
    return text + (f". {row['note']}" if row["note"] else "")


def format_value(value, unit=""):
    """A number at four significant digits, with its unit."""
    return f"{value:.4g}{' ' + unit if unit else ''}"


def _direction(claim):
    if claim.at_least is not None and claim.at_most is not None:
        return "in"
    return ">=" if claim.at_least is not None else "<=" if claim.at_most is not None else None


def _save_run(claim, folder, machine, run):
    study = load_study(claim, folder)
    study["machine"] = machine
    study["runs"] = sorted([*study["runs"], run], key=lambda entry: entry["seed"])
    write_json(pathlib.Path(folder) / f"{claim.id}.json", study)


def _plain(value):
    from ftlab.teach.probe import to_json

    return to_json(value)
