"""What people hand in, and how downloads lay it out: each person has a row, and no layout changes their number."""

import datetime
import io
import json
import os
import struct
import unicodedata
import zipfile

import pytest
from grade.submissions import Notebook, solutions

from ftlab.errors import UsageError
from ftlab.grade import archives, lms, notebook_file
from ftlab.grade.submission import collect

LAB = "00_lifecycle"
FILE = f"{LAB}.ipynb"


@pytest.fixture(scope="module")
def work():
    """The bytes of a notebook with all exercises done, and of an untouched one."""
    return json.dumps(Notebook(LAB, solutions(LAB)).raw).encode(), json.dumps(Notebook(LAB).raw).encode()


@pytest.fixture
def hand_in(tmp_path, work):
    """hand_in(names or {name: bytes}) writes a class's folder (default: the notebook with all done) and returns it."""

    def write(files):
        for name, content in (files if isinstance(files, dict) else dict.fromkeys(files, work[0])).items():
            path = tmp_path / "class" / name
            if name.endswith("/"):
                path.mkdir(parents=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "class"

    return write


def zipped(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def problems(folder, notices=None):
    return {one.student: one.problem for one in collect(folder, notices=notices)}


NO_NOTEBOOK = {  # what one person's folder holds: what the row says
    f"{LAB}.py": "script", f"{LAB}.html": "page", "report.pdf": "printed", f"{LAB}.tar.gz": "archive", f"{LAB}.7z": "archive",
    "photo.HEIC": "picture", "essay.docx": "text document", f"{FILE} - Shortcut.lnk": "shortcut", "colab.webloc": "shortcut",
    f"{LAB}.gdoc": "shortcut", "data.json": "data.json", "x": "no notebook in it: x",
}  # fmt: skip


def test_who_hands_in_no_notebook_has_a_row_that_says_what_is_there(hand_in):
    files = {f"person {number}/{name}": b"[1]" for number, name in enumerate(NO_NOTEBOOK)}
    folder = hand_in(files | {"ada/.ipynb_checkpoints/00_lifecycle-checkpoint.ipynb": b"{}", "ben/": b"",
                              "link/a.url": b"URL=https://colab.example.org/1\n", "cy/notes/": b"",
                              "good.zip": zipped({"a.txt": b"x"})})  # fmt: skip
    found = problems(folder)
    for number, word in enumerate(NO_NOTEBOOK.values()):
        problem = found.pop(f"person {number}")
        assert problem.startswith("no notebook in it: ") and word in problem, problem
    assert "checkpoint" in found.pop("ada") and "empty" in found.pop("ben") and "empty" in found.pop("cy")
    assert "https://colab.example.org/1" in found.pop("link") and "a.txt" in found.pop("good") and not found


def test_a_class_s_zip_brings_the_same_people_as_its_folder(hand_in, tmp_path):
    files = {f"person {number}/{name}": b"[1]" for number, name in enumerate(NO_NOTEBOOK)}
    files |= {"ada/.ipynb_checkpoints/00_lifecycle-checkpoint.ipynb": b"{}", "ben/": b"", f"cy/{FILE}": b""}
    (tmp_path / "class.zip").write_bytes(zipped(files))
    found = problems(tmp_path / "class.zip")
    assert found == problems(hand_in(files)) and len(found) == len(files)


@pytest.mark.parametrize("name", [f"{FILE}.txt", f"{FILE}.json", f"{LAB}.json", "work.txt", LAB, f"{LAB}.IPYNB",
                                  f"{FILE}.download"])  # fmt: skip
def test_a_notebook_under_another_suffix_is_read(name, hand_in):
    [one] = collect(hand_in([f"ada/{name}"]))
    assert (one.lab, one.problem) == (LAB, None)
    assert [flag["kind"] for flag in one.flags] == ([] if name.lower().endswith(".ipynb") else ["renamed_file"])


@pytest.mark.parametrize(("content", "word"), [
    (b"", "empty"), (b"  \n", "empty"), (b"<!DOCTYPE html><html>login", "web page"), (b"PK\x03\x04\xff", "zip archive"),
    (b"%PDF-1.7\xff", "PDF"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    (b'{"cells": [\n<<<<<<< HEAD\n1\n=======\n2\n>>>>>>> main\n]}', "conflict markers are in the file, from line 2"),
])  # fmt: skip
def test_what_is_under_a_notebook_s_name_is_named(content, word, hand_in):
    [one] = collect(hand_in({f"ada/{FILE}": content}))
    assert word in one.problem and one.lab == LAB


def test_a_notebook_in_utf_16_and_one_without_metadata_are_read(hand_in, work):
    notebook = json.loads(work[0])
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    notebook["metadata"] = {}
    files = {f"ada/{FILE}": work[0].decode().encode("utf-16"), "ben/Untitled.ipynb": json.dumps(notebook).encode()}
    found = collect(hand_in(files))
    assert [(one.lab, one.problem) for one in found] == [(LAB, None)] * 2


CANVAS = {"doejane_12345_67890_" + FILE: ("doejane_12345", False, None),
          "doejim_LATE_12_34_x-1.ipynb": ("doejim_12", True, None),
          "doe_jo_13_34_" + FILE: ("doe_jo_13", False, None), "anon_aB3xZ_67_" + FILE: ("anon_aB3xZ", False, None),
          "LATE_anon_ab3xz_68_" + FILE: ("anon_ab3xz", True, None), "roejohn_12346_link.html": ("roejohn_12346", False, "link"),
          "roejane_LATE_14_text.html": ("roejane_14", True, "text"), "doe_link.html": ("doe", False, "link")}  # fmt: skip


def test_canvas_s_names(hand_in):
    found = {one.student: one for one in collect(hand_in(list(CANVAS)))}
    assert {name: one.late for name, one in found.items()} == {name: late for name, late, _ in CANVAS.values()}
    for name, _, entered in CANVAS.values():
        assert (f"a {entered} " in found[name].problem) if entered else found[name].problem is None


def test_moodle_s_names(hand_in):
    found = problems(hand_in([f"Jane Doe_1_assignsubmission_file_/{FILE}",
                              "Jane Doe_1_assignsubmission_onlinetext_/onlinetext.html",
                              f"Jim Doe_2_assignsubmission_file/{FILE}", "Jo_3_assignsubmission_onlinetext_/onlinetext.html",
                              f"Default group_assignsubmission_file_/{FILE}", "Al_4_assignsubmission_file_x.pdf"]))  # fmt: skip
    assert {name for name, problem in found.items() if not problem} == {"Jane Doe_1", "Jim Doe_2", "Default group"}
    assert "a text that was entered" in found["Jo_3"] and "x.pdf" in found["Al_4"] and len(found) == 5


def test_blackboard_s_names_tell_the_user_and_the_time(hand_in, work):
    stem = "06_{}_attempt_2026-11-{}-21-05-10"
    files = {stem.format(user, day) + suffix: content for user, day, suffix, content in (
        ("a_doe", 30, ".txt", b"Name: Ann Doe (a_doe)\n"), ("a_doe", 30, f"_{FILE}", work[0]),
        ("b_doe", 30, f"_{FILE}", work[0]), ("c_doe", 29, f"_{FILE}", work[1]), ("c_doe", 30, f"_{FILE}", work[0]),
        ("dan", 30, ".txt", b"Name: Dan (dan)\n"))}  # fmt: skip
    found = {one.student: one for one in collect(hand_in(files))}
    assert set(found) == {"a_doe", "b_doe", "c_doe", "dan"} and "text" in found["dan"].problem
    assert found["c_doe"].modified == datetime.datetime(2026, 11, 30, 21, 5, 10).timestamp() and found["c_doe"].dated


def test_brightspace_s_attempts_are_one_person_s(hand_in, work):
    notices = []
    found = collect(hand_in({f"12-3 - Jane Doe - Nov 30, 2026 905 PM/{FILE}": work[0], "index.html": b"",
                             f"12-3 - Jane Doe - Dec 1, 2026 1205 AM/{FILE}": work[0],
                             f"12-4 - Jim Doe - 05 March 2026 6:12 PM/{FILE}": work[0]}), notices=notices)  # fmt: skip
    assert [(one.student, one.modified) for one in found] == [
        ("Jane Doe_12-3", datetime.datetime(2026, 12, 1, 0, 5).timestamp()),
        ("Jim Doe_12-4", datetime.datetime(2026, 3, 5, 18, 12).timestamp())]  # fmt: skip
    assert "Nov 30" in found[0].flags[0]["message"] and "index.html" in notices[0]


def test_nbgrader_s_inbound_folder(hand_in):
    names = ["ada+00_lifecycle+2026-11-30 20:05:10 UTC+x", "ada+00_lifecycle+2026-11-29 20:05:10.5 UTC",
             "ben+l+2026-11-30 20:05:10 UTC"]  # fmt: skip
    found = collect(hand_in([f"{name}/{FILE}" for name in names]))
    assert [one.student for one in found] == ["ada", "ben"] and found[0].lms is None and "11-30" in str(found[0].path)


@pytest.mark.parametrize("name", ["06_lora.ipynb", "labs_06_07_06_lora.ipynb", "Tutorial A", "ada", "2026-11-30 - notes"])
def test_other_names_are_no_lms_s(name):
    assert lms.told(name) is None


NO_CLASS = [  # layouts one level off, of more than one person a folder
    ["Tutorial A/anna", "Tutorial A/ben", "Tutorial B/cem"], ["Mo/anna", "Mo/ben", "Tu/cem", "Tu/dan"],
    ["Sec 1/anna", "Sec 2/ben"], ["attempt 1/anna", "attempt 1/ben", "attempt 2/anna"],
    ["00_lifecycle/anna", "00_lifecycle/ben", "06_lora/anna", "06_lora/ben"], ["Fall/T1/anna", "Fall/T1/ben", "Fall/T2/cem"],
    ["A/Jo_1_assignsubmission_file_", "A/Al_2_assignsubmission_file_", "B/Em_3_assignsubmission_file_"],
    ["submitted/anna/00_lifecycle", "release/00_lifecycle", "source/00_lifecycle"],
]  # fmt: skip


@pytest.mark.parametrize("folders", NO_CLASS, ids=lambda folders: folders[0])
def test_folders_of_several_people_are_refused(folders, hand_in):
    with pytest.raises(UsageError) as problem:
        collect(hand_in([f"{folder}/{FILE}" for folder in folders]))
    assert "\n" not in str(problem.value) and ("by itself" in str(problem.value) or "submitted" in str(problem.value))


def test_loose_files_of_several_people_in_sections_are_refused(hand_in):
    with pytest.raises(UsageError, match=r"Tutorial A holds several people's notebooks \(anna.ipynb, ben.ipynb\)"):
        collect(hand_in(["Tutorial A/anna.ipynb", "Tutorial A/ben.ipynb", "Tutorial B/cem.ipynb", "Tutorial B/dan.ipynb"]))


def test_one_such_folder_among_students_does_not_stop_the_others(hand_in):
    found = problems(hand_in([f"{name}/{FILE}" for name in ("ada", "ben", "cy", "late/dan", "late/eve")]))
    assert "several people's notebooks (dan/, eve/)" in found.pop("late") and set(found.values()) == {None} and len(found) == 3


@pytest.mark.parametrize("folders", [["subs/anna", "subs/ben"], ["a/b/anna", "a/b/ben"],
                                     ["shootout/team-anna/labs", "shootout/team-ben/labs"]])  # fmt: skip
def test_a_folder_around_all_is_gone_through_and_told(folders, hand_in):
    notices = []
    found = problems(hand_in([f"{folder}/{FILE}" for folder in folders]), notices)
    assert len(found) == 2 and all("anna" in name or "ben" in name for name in found) and "read from class/" in notices[0]


def test_a_student_s_own_folders_are_one_student_s(hand_in):
    own = [f"{name}/{FILE}" for name in ("ada/labs", "ada/solutions", "ada/ftlab-work", "ben/course-main/labs",
                                         "ben/course-main/work", "cy/attempt 1", "cy/attempt 2",
                                         "dan/2026-11-29", "dan/2026-11-30 final", "eve/eve doe",
                                         "fee/venv/lib/x")]  # fmt: skip
    found = problems(hand_in([*own, f"fee/{FILE}", f"fee/{LAB} (1).ipynb", f"fee/{LAB} final.ipynb"]))
    assert found == dict.fromkeys(["ada", "ben", "cy", "dan", "eve", "fee"])


def test_who_may_be_one_person_is_told(hand_in):
    notices, nfd = [], unicodedata.normalize("NFD", "Jörg")
    names = ("Ada", "ada", "ben_attempt1", "ben_attempt2", "Jörg", nfd, "s1", "s2")
    found = problems(hand_in([f"{name}/{FILE}" for name in names]), notices)
    assert sorted(found) == ["Ada", "Jörg", "ada", "ben_attempt1", "ben_attempt2", "s1", "s2"]
    assert len(notices) == 2 and "Ada, ada" in notices[0] and "ben_attempt1, ben_attempt2" in notices[1]


def test_the_file_with_work_in_it_counts(hand_in, work):
    done, untouched = work
    folder = hand_in({f"bob/{FILE}": done, f"bob/{LAB}-Copy1.ipynb": untouched, f"c_1_2_{FILE}": done,
                      f"c_1_3_{LAB}-1.ipynb": untouched,
                      "dora/course.zip": zipped({f"c/ftlab-work/{FILE}": done, f"c/labs/{FILE}": untouched})})  # fmt: skip
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9 + 1e6 * ("-Copy1" in path.name)))
    bob, canvas, dora = collect(folder)
    assert (bob.path.name, canvas.path.name, dora.path.parent.name) == (FILE, f"c_1_2_{FILE}", "ftlab-work")
    [flag] = bob.flags
    assert "(3 exercises attempted) was graded" in flag["message"] and "(0 exercises attempted)" in flag["message"]


def test_a_pipe_is_no_file(hand_in):
    folder = hand_in([f"ada/{FILE}"])
    (folder / "ben").mkdir()
    for name in (f"ben/{FILE}", "cy.zip", f"dan_1_2_{FILE}", "eve"):
        os.mkfifo(folder / name)
    found = problems(folder)
    assert found.pop("ada") is None and len(found) == 4 and all("a pipe" in problem for problem in found.values())
    with pytest.raises(notebook_file.Unreadable):
        notebook_file.read_bytes(folder / "eve")


# Limits


def with_outputs(data, size):
    notebook = json.loads(data)
    shown = {"image/png": "A" * size, "x": [{"a": ']}"\\'}]}
    notebook["cells"][3]["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": shown}]
    notebook["cells"][2]["attachments"] = {"a.png": {"image/png": "B" * 1000}}
    notebook["metadata"]["widgets"] = {"state": {"a": [1, {}]}}
    return json.dumps(notebook).encode()


def test_outputs_do_not_count_as_size(hand_in, work, monkeypatch):
    for module in (notebook_file, archives):
        monkeypatch.setattr(module, "MAX_BYTES", 1_000_000)
    large = with_outputs(work[0], 5_000_000)
    source = b'{"nbformat": 4, "cells": [], "x": "' + b"A" * 5_000_000 + b'"}'
    ada, ben, cy = collect(hand_in({f"ada/{FILE}": large, "ben/all.zip": zipped({FILE: large}), f"cy/{FILE}": source}))
    assert ada.problem is ben.problem is None and "5 MB without its outputs" in cy.problem
    assert ben.path.stat().st_size < 1_000_000, "what is unpacked has no outputs"


def test_a_notebook_without_outputs_is_read_as_it_is(work):
    found, plain = notebook_file.parsed(with_outputs(work[0], 10)), json.loads(work[0])
    plain["cells"][3]["outputs"], plain["cells"][2]["attachments"], plain["metadata"]["widgets"] = [], {}, {}
    assert found == plain


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"cells": [' + b"[]," * 90_000, b'"' + b'\\"' * 1_000_000,
                                  b'{"cells": [{"outputs": [' + b"[]," * 90_000, b"<<<<<<<\n" * 100_000, b" " * 2_000_000])
def test_json_made_to_cost_memory_or_time_is_not_parsed(data, monkeypatch):
    for name, value in {"MAX_BYTES": 1_000_000, "MAX_TOKENS": 50_000, "MAX_SKIPPED": 50_000}.items():
        monkeypatch.setattr(notebook_file, name, value)
    with pytest.raises(notebook_file.Unreadable):
        notebook_file.parsed(data)


def test_all_zips_of_one_student_have_one_limit(hand_in, tmp_path, work, monkeypatch):
    monkeypatch.setattr(archives.Budget.__init__, "__defaults__", (1000, 10_000_000, 3, False))
    inner = zipped({f"{number}.ipynb": b" " * 400_000 for number in range(10)})
    folder = hand_in({"mallory/all.zip": zipped({f"{number}.zip": inner for number in range(40)}), "mallory/more.zip": inner,
                      f"ada/{FILE}": work[0]})  # fmt: skip
    ada, mallory = collect(folder, tmp_path / "scratch")
    assert ada.problem is None and mallory.problem
    assert sum(path.stat().st_size for path in (tmp_path / "scratch").rglob("*")) < archives.Budget().bytes


def test_zips_in_zips_end(hand_in):
    data = zipped({FILE: b"{}"})
    for _ in range(6):
        data = zipped({"x.zip": data})
    assert "not opened" in problems(hand_in({"ada/x.zip": data}))["ada"]


def test_what_is_no_work_does_not_count_in_a_zip(hand_in, work):
    litter = {f"c/{name}": b"x" for number in range(1500) for name in (f".git/objects/{number}", f"pictures/{number}.png")}
    more = {f"__MACOSX/._{FILE}": b"x", f"c/{FILE}": work[0], "c/model.bin": b"x" * 10_000}
    [ada] = collect(hand_in({"ada/course.zip": zipped(litter | more)}))
    assert ada.problem is None


def test_a_zip_s_list_of_entries_is_bounded(tmp_path):
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 900_000_000, 0, 0)
    (tmp_path / "x.zip").write_bytes(zipped({"a": b""})[:-22] + end)
    assert "900 MB" in archives.list_problem(tmp_path / "x.zip")


def test_names_in_a_zip_that_programs_write_in_their_own_way(tmp_path, work):
    with zipfile.ZipFile(tmp_path / "class.zip", "w") as archive:
        for name in ("Jörg", "x" * 300):
            archive.writestr(f"{name}/{FILE}", work[0])
        archive.writestr(f"ada/{FILE}", work[0])
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(f"ada/{FILE}", work[1])
    data = bytearray((tmp_path / "class.zip").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # no mark that the first name is UTF-8
        data[data.index(signature) + offset + 1] &= ~8
    (tmp_path / "class.zip").write_bytes(data)
    jorg, ada, long = collect(tmp_path / "class.zip")
    assert jorg.student == "Jörg" and long.student.startswith("xxx") and ada.flags[0]["kind"] == "several_files"
