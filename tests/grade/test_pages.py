"""Feedback and report: what they say, what they keep to themselves, and that nothing in them can run."""

import html.parser
import re
import shutil

import pytest
from grade.fake_class import CONTENT, GRADER, LAB, write

from ftlab.course import catalogue
from ftlab.errors import UsageError
from ftlab.grade.batch import grade_class
from ftlab.grade.feedback import WORDS, hint_for, safe_name
from ftlab.grade.page import text
from ftlab.grade.report import histogram

EXERCISES = catalogue.exercises(LAB)
TAGS = set("html head meta title style body h1 h2 p b br span section pre code div table thead tbody tr th td svg rect line "
           "text a".split())  # fmt: skip
EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">\'"&\u202e\x1b'


def grade(tmp_path):
    return grade_class(tmp_path / "class", tmp_path / "out", secret="a secret of the tests", grader=GRADER, content=CONTENT)


def feedback(tmp_path, student, lab=LAB):
    return (tmp_path / "out" / "feedback" / student / f"{lab}.html").read_text(encoding="utf-8")


class Reader(html.parser.HTMLParser):
    """Collects the tags and attributes of a page, and checks that tags close in order."""

    VOID = {"meta", "br", "rect", "line"}

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.open, self.texts = set(), set(), [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attributes}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_feedback_shows_code_what_was_said_the_hint_and_the_points(tmp_path):
    verdicts = {"layer": "mistake: swapped\ndef forward(x): ...", "start": "full", "attach": "error", "merge": "partial"}
    write(tmp_path / "class", "ada", verdicts)
    grade(tmp_path)
    page = feedback(tmp_path, "ada")
    layer, attach = EXERCISES["layer"], EXERCISES["attach"]
    assert "5.25 of 22 points" in page and "def forward(x): ..." in page
    assert text(layer.mistakes["swapped"]) in page and text(layer.hints[0]) in page and text(layer.hints[1]) not in page
    assert text(attach.hints[1]) in page  # begun, and stopped with an error: the next hint
    assert all(text(exercise.title) in page for exercise in EXERCISES.values())
    assert page.count("<section>") == len(EXERCISES) and "2.25 of 3" in page and "Partly right" in page


def test_feedback_tells_nothing_of_hidden_inputs_or_flags(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "wrong", "start": "full # FLAG"})
    grade(tmp_path)
    page = feedback(tmp_path, "ada")
    assert "HIDDEN-INPUT" not in page and "INSTRUCTOR-ONLY" not in page and "a secret of the tests" not in page
    report = (tmp_path / "out" / "report.html").read_text()
    assert "INSTRUCTOR-ONLY" in report and "HIDDEN-INPUT" not in report


def test_nothing_that_a_student_wrote_can_run(tmp_path):
    write(tmp_path / "class", f"<script>alert(0)</script> {EVIL[:20]}".replace("/", "_"),
          {"layer": f"wrong\n{EVIL}", "start": f"full # FLAG {EVIL}"})  # fmt: skip
    write(tmp_path / "class", "bob", {"layer": "full"}, file="<img src=x onerror=alert(3)>.ipynb")
    grade(tmp_path)
    pages = [*(tmp_path / "out" / "feedback").glob("*/*.html"), tmp_path / "out" / "report.html"]
    assert len(pages) == 3
    for path in pages:
        page = path.read_text(encoding="utf-8")
        read = Reader(page)
        assert read.tags <= TAGS
        assert not {name for _, name in read.attributes if name.startswith("on")} and ("meta", "content") in read.attributes
        assert {tag for tag, name in read.attributes if name in ("href", "src")} <= {"a"}
        assert "default-src 'none'; style-src 'unsafe-inline'" in page
        assert page.index("Content-Security-Policy") < page.index("<title>") < page.index("</head>")
        assert "\u202e" not in page and "\x1b" not in page and "http" not in page.replace("http-equiv", "")
    shown = "".join(text_ for path in pages for text_ in Reader(path.read_text()).texts)
    assert "<script>alert(1)</script>" in shown and "[U+202E]" in shown  # it is there, as text


@pytest.mark.parametrize("name", ["../../x", "..", ".", "a/b", "/etc", ".hidden", "CON", "nul.txt", "Ada Lovelace", "ADA",
                                  "x" * 300, "", "a\\b", "日本", "a\nb", "-rf", "a.", "\udcff"])  # fmt: skip
def test_a_name_makes_a_file_name_that_stays_in_its_folder(tmp_path, name):
    made = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_][\w.-]*[\w-]", made) and len(made) < 80 and made != name
    assert (tmp_path / made).resolve().parent == tmp_path.resolve()
    assert made == safe_name(name)


def test_other_names_make_other_file_names():
    names = ["ada", "Ada", "ADA", "a da", "a_da", "../ada", "ada_b14a7b80", "ada."]
    assert len({safe_name(name).lower() for name in names}) == len(names)
    assert safe_name("ada") == "ada" and safe_name("student01") == "student01" and safe_name(LAB) == LAB


def test_pages_of_those_who_are_gone_go(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "full"})
    path = write(tmp_path / "class", "bob", {"layer": "full"})
    grade(tmp_path)
    assert feedback(tmp_path, "bob")
    shutil.rmtree(path.parent)
    (tmp_path / "out" / "run.json").unlink()  # which keeps a run from dropping grades
    grade(tmp_path)
    assert [path.name for path in (tmp_path / "out" / "feedback").iterdir()] == ["ada"]


def test_the_hint_fits():
    exercise = EXERCISES["layer"]
    row = {"status": "wrong", "visible": {"mistake": None}}
    assert hint_for(exercise, row) == exercise.hints[1]
    assert hint_for(exercise, row | {"visible": {"mistake": "swapped"}}) == exercise.hints[0]
    assert hint_for(exercise, row | {"status": "not_attempted"}) == exercise.hints[0]
    assert hint_for(exercise, row | {"status": "full"}) is hint_for(exercise, row | {"status": "partial"}) is None
    assert set(WORDS) == set("full partial wrong not_attempted error timeout kernel_died oom not_run malformed".split())


def test_long_code_is_cut(tmp_path):
    write(tmp_path / "class", "ada", {"layer": "wrong\n" + "x" * 100_000})
    grade(tmp_path)
    assert len(feedback(tmp_path, "ada")) < 50_000 and "more characters)" in feedback(tmp_path, "ada")


def test_the_report_ranks_mistakes_and_exercises_and_lists_what_to_look_at(tmp_path):
    for number in range(5):
        mistake, flag = "swapped" if number < 3 else "no_base", "# FLAG" if number == 4 else ""
        verdicts = {"layer": f"mistake: {mistake}\n{number}", "start": "full", "count": f"full\n{flag}"}
        write(tmp_path / "class", f"student{number}", verdicts)
    (tmp_path / "class" / "zoe").mkdir()
    (tmp_path / "class" / "zoe" / f"{LAB}.ipynb").write_text("not json")
    grade(tmp_path)
    report = (tmp_path / "out" / "report.html").read_text()
    Reader(report)
    mistakes = EXERCISES["layer"].mistakes
    assert 0 < report.index(text(mistakes["swapped"])) < report.index(text(mistakes["no_base"]))
    hurt = report[report.index("the hardest first"):report.index("Mistakes, the most")]
    assert hurt.index(text(EXERCISES["layer"].title)) < hurt.index(text(EXERCISES["start"].title)) and "100%" in hurt
    assert "1 could not be graded" in report and "zoe" in report and "not valid JSON" in report
    assert f'href="feedback/student4/{LAB}.html"' in report and "INSTRUCTOR-ONLY" in report
    assert "Totals" in report and "<svg" in report and "mean 23%" in report  # 5 of 22 points each
    assert "5 graded" in report


def test_the_histogram_counts_each_share_once():
    svg = histogram([0.0, 0.05, 0.1, 0.3, 0.7, 0.999, 1.0])
    label = re.search(r'aria-label="([^"]*)"', svg)[1]
    assert [int(count) for count in re.findall(r"%: (\d+)", label)] == [2, 1, 0, 1, 0, 0, 0, 1, 0, 2]
    assert svg.count("<rect") == 5


def test_a_report_of_nothing_gradable_is_whole(tmp_path):
    (tmp_path / "class" / "zoe").mkdir(parents=True)
    (tmp_path / "class" / "zoe" / f"{LAB}.ipynb").write_text("not json")
    grade(tmp_path)
    Reader((tmp_path / "out" / "report.html").read_text())
    with pytest.raises(UsageError):
        grade_class(tmp_path / "out" / "feedback", tmp_path / "out", secret="a secret of the tests")
