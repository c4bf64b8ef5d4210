"""Each lab through the whole path: our solution gets all points, the release none, wrong answers none."""

import pytest
from grade.submissions import Notebook, solutions
from labs.test_labs import wrong_answers

from ftlab.course import catalogue
from ftlab.grade import one

LABS = [lab if lab == "06_lora" else pytest.param(lab, marks=pytest.mark.full) for lab in catalogue.lab_names()]


@pytest.fixture
def grade(patient_walls, tmp_path):
    def grade(lab, code):
        path = Notebook(lab, code).save(tmp_path / "ada" / f"{lab}.ipynb")
        result = one.grade_one(path, "ada", lab, "a secret", patient_walls)
        assert result["status"] == "graded", result["message"]
        return result

    return grade


@pytest.mark.parametrize("lab", LABS)
def test_a_lab_is_graded(lab, grade):
    ours = solutions(lab)
    full = grade(lab, ours)
    assert {row["exercise"]: row["status"] for row in full["exercises"]} == dict.fromkeys(ours, "full"), [
        (row["exercise"], row["visible"], row["hidden"]) for row in full["exercises"] if row["status"] != "full"]  # fmt: skip
    assert full["points"] == full["max_points"] == sum(item.points for item in catalogue.exercises(lab).values())
    none = grade(lab, {})
    assert {row["exercise"]: row["status"] for row in none["exercises"]} == dict.fromkeys(ours, "not_attempted")
    wrong = grade(lab, {id: next(iter(answers.values())) for id, answers in wrong_answers(lab).items()})
    assert wrong["points"] == 0, [row for row in wrong["exercises"] if row["points"]]
    first = wrong["exercises"][0]
    assert first["visible"]["mistake"] == next(iter(wrong_answers(lab)[first["exercise"]])) and first["status"] == "wrong"
