"""What a notebook talks to, on a lab made up here."""

import json
import sys
import types

import pytest

from ftlab.course import catalogue
from ftlab.course.lab import Lab
from ftlab.errors import UsageError
from ftlab.measure.claims import Claim
from ftlab.teach import Exercise, against
from ftlab.teach.display import CHECK_MIME, CLAIM_MIME, PROBE_MIME, Points

NAME = "77_made_up"
SOLUTION = "def double(x):\n    return 2 * x"
STUB = 'def double(x):\n    raise NotImplementedError("exercise double: ...")'
MISTAKES = {"squared": "You squared it.", "kept": "You gave it back."}
DOUBLE = Exercise(
    id="double", title="Twice <as> much", points=2, minutes=3, difficulty=1, hints=("A nudge.", "More of it.", "2 * x"),
    mistakes=MISTAKES, check=against(lambda x: 2 * x, [3, 4], {"squared": lambda x: x * x, "kept": lambda x: x}),
)  # fmt: skip
CLAIM = Claim(
    id="C99", kind="exact", lab=NAME, statement="It is.", metric="error", at_most=1.0, measure=lambda s, r: {"value": 0}
)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "exercises", lambda lab: {"double": DOUBLE})
    monkeypatch.setattr(catalogue, "claims", lambda lab: [CLAIM])
    monkeypatch.setattr(catalogue, "ANSWERS", tmp_path)
    monkeypatch.setattr(catalogue, "STUDIES", tmp_path)
    monkeypatch.setenv("FTLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FTLAB_HEADLESS", raising=False)
    monkeypatch.delenv("FTLAB_FAST", raising=False)
    (tmp_path / f"{NAME}.json").write_text(json.dumps({"double": {"solution": SOLUTION, "stub": STUB}}))
    return tmp_path


@pytest.fixture
def lab(made_up):
    return Lab(NAME)


@pytest.fixture
def shown(monkeypatch):
    """The MIME bundles that a notebook would get."""
    bundles = []
    shell = types.SimpleNamespace(user_ns={}, kernel=1, next=None)
    shell.set_next_input = lambda text, replace: setattr(shell, "next", text)
    display = types.SimpleNamespace(display=lambda bundle, raw: bundles.append(bundle))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    bundles_and_shell = types.SimpleNamespace(bundles=bundles, shell=shell)
    return bundles_and_shell


def test_a_check_shows_a_box_and_json_and_gives_points(lab, shown):
    points = lab.check("double", lambda x: x * x)
    (bundle,) = shown.bundles
    told = {"id": "double", "status": "mistake", "mistake": "squared", "message": "You squared it."}
    assert bundle[CHECK_MIME] == told
    assert "You squared it." in bundle["text/plain"] and "Twice &lt;as&gt; much" in bundle["text/html"]
    assert "A known mistake" in bundle["text/html"] and "➜" in bundle["text/html"], "not by colour alone"
    assert repr(points) == "0"
    assert repr(lab.check("double", lambda x: 2 * x)) == "2"
    assert lab.results["double"].status == "right"


def test_a_check_does_not_raise_whatever_it_is_given(lab, shown):
    for objects in ((), (1,), (None,), (object(), 2), (lambda: 1,)):
        assert isinstance(lab.check("double", *objects), Points)
    assert isinstance(lab.check("unknown", 1), Points)
    assert "no exercise 'unknown'; it has double" in shown.bundles[-1]["text/plain"]


def test_in_a_terminal_everything_is_plain_text(lab, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    lab.check("double", lambda x: x)
    lab.hint("double")
    lab.reset("double")
    said = capsys.readouterr().out
    assert "➜ A known mistake · Twice <as> much\nYou gave it back." in said
    assert "A nudge." in said and STUB in said


def test_hints_come_one_by_one_and_stay_at_the_last(lab, shown):
    for expected in ("A nudge.", "More of it.", "2 * x", "2 * x"):
        lab.hint("double")
        assert expected in shown.bundles[-1]["text/plain"]
    assert "lab.use_solution" in shown.bundles[-1]["text/plain"]


def test_our_solution_runs_for_zero_points_and_a_reset_begins_anew(lab, shown):
    lab.use_solution("double")
    double = shown.shell.user_ns["double"]
    assert double(4) == 8 and SOLUTION in shown.bundles[-1]["text/plain"]
    assert repr(lab.check("double", double)) == "0"
    assert shown.bundles[-1][CHECK_MIME]["status"] == "right" and "zero points" in shown.bundles[-1]["text/plain"]
    lab.progress()
    assert "our solution" in shown.bundles[-1]["text/plain"] and "0 of 2" in shown.bundles[-1]["text/plain"]
    lab.reset("double")
    assert shown.shell.next == STUB
    assert repr(lab.check("double", lambda x: x + x)) == "2"
    lab.progress()
    assert "2 of 2" in shown.bundles[-1]["text/plain"] and "<table>" in shown.bundles[-1]["text/html"]


def test_a_namespace_may_be_given(lab, shown):
    space = {}
    lab.use_solution("double", namespace=space)
    assert space["double"](1) == 2


def test_a_release_may_leave_the_answers_out(lab, made_up):
    (made_up / f"{NAME}.json").unlink()
    with pytest.raises(UsageError, match="not part of this release"):
        lab.use_solution("double")


def test_predictions_are_kept(lab, shown, monkeypatch):
    asked = {}

    class Widget:
        def __init__(self, question, on_commit, **options):
            asked.update(options, commit=on_commit)

        def show(self):
            asked["shown"] = True

    monkeypatch.setitem(sys.modules, "ftlab.show.widgets", types.SimpleNamespace(prediction=Widget))
    monkeypatch.setattr("ftlab.show.widgets", sys.modules["ftlab.show.widgets"], raising=False)
    assert lab.prediction("loss") is None
    lab.predict("loss", "How low?", low=0, high=4, unit="nats")
    assert asked["shown"] and asked["high"] == 4 and asked["committed"] is None
    asked["commit"](1.5)
    assert lab.prediction("loss") == Lab(NAME).prediction("loss") == 1.5
    Lab(NAME).predict("loss", "How low?")
    assert asked["committed"] == 1.5
    for wrong in ({"kind": "choice"}, {"kind": "text"}, {"options": ["a", "b"]}):
        with pytest.raises(UsageError):
            lab.predict("loss", "How low?", **wrong)


def test_claims_show_this_run_and_the_study(lab, shown, monkeypatch):
    lab.claim("C99", 0.5, steps=[1, 2])
    bundle = shown.bundles[-1]
    assert bundle[CLAIM_MIME]["value"] == 0.5 and bundle[CLAIM_MIME]["holds"] is True
    assert bundle[CLAIM_MIME]["data"] == {"steps": [1, 2]}
    assert "at most 1" in bundle["text/plain"] and "not measured yet" in bundle["text/plain"]
    lab.claim("C99", 1.5)
    assert "✘ Does not hold" in shown.bundles[-1]["text/plain"]
    monkeypatch.setenv("FTLAB_FAST", "1")
    lab.claim("C99", 1.5)
    assert "not judged" in shown.bundles[-1]["text/plain"] and shown.bundles[-1][CLAIM_MIME]["holds"] is None
    with pytest.raises(UsageError, match="it has C99"):
        lab.claim("C98", 1)


def test_probes_show_json(lab, shown):
    lab.probe("double", {"a": [1.23456789]})
    record = {"id": "double", "seed": lab.probe_seed("double"), "value": {"a": [1.23457]}}
    assert shown.bundles[-1][PROBE_MIME] == record
    assert lab.probes["double"]["value"] == {"a": [1.23457]}
    with pytest.raises(UsageError):
        lab.probe("double", object())


def test_labs_are_found_by_number_or_part(monkeypatch):
    monkeypatch.setattr(catalogue, "lab_names", lambda: ["01_autoregression", "02_transformer", "10_rlhf", "11_dpo"])
    assert catalogue.find_labs(["1", "02", "rlhf", "labs/11_dpo.ipynb"]) == [
        "01_autoregression", "02_transformer", "10_rlhf", "11_dpo",
    ]  # fmt: skip
    assert len(catalogue.find_labs()) == 4
    for name in ("nothing", "99", "r", ""):
        with pytest.raises(UsageError, match="the labs are: 01_autoregression, "):
            catalogue.find_labs([name])
