"""Submissions found where an LMS, nbgrader or a teacher leaves them; what cannot be read does not stop the others."""

import json
import os
import stat
import zipfile

import pytest
from grade.submissions import Notebook

from ftlab.errors import UsageError
from ftlab.grade.submission import collect


@pytest.fixture(scope="module")
def text():
    return json.dumps(Notebook("00_lifecycle").raw)


@pytest.fixture
def put(tmp_path, text):
    """put(name, content) writes a file below the class's folder; default: a released notebook."""

    def write(name, content=text):
        path = tmp_path / "class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
        return path

    return write


def found(folder):
    return [(one.student, one.lab, one.problem) for one in collect(folder)]


def zipped(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


LAYOUTS = {  # the files of a class: what is found
    "plain": (["ada/06_lora.ipynb", "bob/06_lora.ipynb", "bob/00_lifecycle.ipynb"],
              [("ada", "06_lora"), ("bob", "00_lifecycle"), ("bob", "06_lora")]),
    "nbgrader": (["ada/06_lora/06_lora.ipynb", "ada/06_lora/timestamp.txt", "bob/06_lora/06_lora.ipynb"],
                 [("ada", "06_lora"), ("bob", "06_lora")]),
    "Moodle, folders": (["Ada Löwe_123_assignsubmission_file_/06_lora.ipynb", "Bo B_7_assignsubmission_file_/work.ipynb"],
                        [("Ada Löwe_123", "06_lora"), ("Bo B_7", "00_lifecycle")]),
    "Moodle, flat": (["Ada Löwe_123_assignsubmission_file_06_lora.ipynb"], [("Ada Löwe_123", "06_lora")]),
    "Canvas": (["loveada_12_34_06_lora.ipynb", "bbo_LATE_13_35_06_lora-2.ipynb", "c_14_36_my work.ipynb"],
               [("bbo_13", "06_lora"), ("c_14", "00_lifecycle"), ("loveada_12", "06_lora")]),
    "copies": (["ada/06_lora-Copy1.ipynb", "bob/06_lora (2).ipynb", "eve/Copy of 06_lora.ipynb", "dan/06 LoRA.ipynb"],
               [("ada", "06_lora"), ("bob", "06_lora"), ("dan", "06_lora"), ("eve", "06_lora")]),
    "litter": (["ada/06_lora.ipynb", "ada/.ipynb_checkpoints/06_lora-checkpoint.ipynb", "__MACOSX/ada/._06_lora.ipynb",
                ".DS_Store", "grades.csv"], [("ada", "06_lora")]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("as_zip", [False, "flat", "in a folder"])
def test_every_layout_is_read_from_a_folder_and_from_a_zip(name, as_zip, put, tmp_path, text):
    files, expected = LAYOUTS[name]
    if as_zip:
        prefix = "download/" if as_zip == "in a folder" else ""
        folder = zipped(tmp_path / "class.zip", {prefix + file: text for file in files})
    else:
        for file in files:
            put(file)
        folder = tmp_path / "class"
    assert found(folder) == [(student, lab, None) for student, lab in expected]
    assert all(one.path.is_file() for one in collect(folder))


def test_a_zip_a_student_within_a_download(put, tmp_path, text):
    zipped(tmp_path / "class/Ada_1_assignsubmission_file_/all.zip", {"06_lora.ipynb": text, "x/09_shootout.ipynb": text})
    zipped(tmp_path / "class/bob.zip", {"06_lora.ipynb": text})
    zipped(tmp_path / "class/cy.zip", {"labs_06_07_06_lora.ipynb": text})  # not Canvas's
    assert found(tmp_path / "class") == [("Ada_1", "06_lora", None), ("Ada_1", "09_shootout", None), ("bob", "06_lora", None),
                                         ("cy", "06_lora", None)]  # fmt: skip


@pytest.mark.parametrize("names", [["Ada_1_assignsubmission_file_/06_lora.ipynb"],
                                   ["bbo_LATE_13_35_06_lora.ipynb", "ada_14_36_06_lora.ipynb"]])  # fmt: skip
def test_a_classs_download_among_students_is_no_student(names, put, tmp_path, text):
    put("cy/06_lora.ipynb")
    zipped(tmp_path / "class/CS101-Lab06-4711.zip", dict.fromkeys(names, text))
    one, other = collect(tmp_path / "class")
    assert "by itself" in one.problem and (other.student, other.problem) == ("cy", None)


def test_what_the_lms_says_is_kept(put, tmp_path):
    put("bbo_LATE_13_35_06_lora.ipynb"), put("ada_1_2_06_lora.ipynb"), put("Eve E_5_assignsubmission_file_/06_lora.ipynb")
    os.utime(put("ada_1_2_06_lora.ipynb"), (1e9, 1e9))
    one = {one.student: one for one in collect(tmp_path / "class")}
    assert [one[name].late for name in ("ada_1", "bbo_13", "Eve E_5")] == [False, True, None]
    assert one["ada_1"].modified == 1e9
    assert one["Eve E_5"].lms == {"kind": "moodle", "id": "5", "name": "Eve E"}


def test_the_last_attempt_counts_and_the_others_are_told(put, tmp_path):
    for name in ("ada_1_2_06_lora.ipynb", "ada_1_3_06_lora-1.ipynb", "ada_1_4_06_lora-10.ipynb"):
        put(name)
    newer = put("bob/06_lora.ipynb")
    os.utime(put("bob/06_lora final.ipynb"), (1e9, 1e9))
    ada, bob = collect(tmp_path / "class")
    assert ada.path.name == "ada_1_4_06_lora-10.ipynb" and bob.path == newer
    assert "ada_1_3_06_lora-1.ipynb" in ada.flags[0]["message"] and bob.flags[0]["kind"] == "several_files"


def test_a_broken_newer_file_does_not_hide_a_good_one(put, tmp_path):
    put("ada/06_lora.ipynb")
    put("ada/06_lora-1.ipynb", "{")
    [ada] = collect(tmp_path / "class")
    assert ada.problem is None and ada.path.name == "06_lora.ipynb" and ada.flags


def test_each_broken_file_has_its_problem_and_the_others_go_on(put, tmp_path, text):
    put("good/06_lora.ipynb")
    put("cut/06_lora.ipynb", text[:1000])
    put("old/06_lora.ipynb", '{"nbformat": 3}')
    put("name/homework.ipynb", text.replace("00_lifecycle", "nothing"))
    put("06_lora.ipynb")
    with open(put("huge/06_lora.ipynb"), "wb") as file:
        file.truncate(500_000_000)
    put("bad/06_lora.zip", b"PK\x03\x04 this is no zip")
    (tmp_path / "class/link").mkdir()
    (tmp_path / "class/link/06_lora.ipynb").symlink_to(tmp_path / "class/good/06_lora.ipynb")
    (tmp_path / "class/other").symlink_to(tmp_path / "class/good")
    problems = {one.student: one.problem for one in collect(tmp_path / "class")}
    words = {"good": None, "cut": "JSON", "old": "format 4", "name": "names no lab", "06_lora": "no student", "huge": "500 MB",
             "bad": "damaged", "link": "link", "other": "link"}  # fmt: skip
    assert set(problems) == set(words)
    for name, word in words.items():
        assert problems[name] is None if word is None else word in problems[name], (name, problems[name])
        assert "\n" not in (problems[name] or "")


def bomb(path, **files):
    """A zip with a notebook of 300 MB of blanks in 0.3."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files or {"06_lora.ipynb"}:
            with archive.open(name, "w") as entry:
                for _ in range(300):
                    entry.write(b" " * 1_000_000)
    return path


def test_a_zip_bomb_of_a_student_is_not_unpacked(put, tmp_path):
    put("ada/06_lora.ipynb")
    bomb(tmp_path / "class/bob.zip")
    scratch = tmp_path / "scratch"
    ada, bob = collect(tmp_path / "class", scratch)
    assert ada.problem is None and "300 MB" in bob.problem
    assert sum(path.stat().st_size for path in scratch.rglob("*")) < 1_000_000


def test_a_bomb_in_a_class_s_zip_costs_the_others_nothing(put, tmp_path, text):
    path = bomb(tmp_path / "class.zip", **{"bob/06_lora.ipynb": 1})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("ada/06_lora.ipynb", text)
    scratch = tmp_path / "scratch"
    ada, bob = collect(path, scratch)
    assert ada.problem is None and "MB" in bob.problem
    assert sum(path.stat().st_size for path in scratch.rglob("*")) < 25_000_000


def test_a_zip_writes_nothing_outside_and_no_links(tmp_path, text):
    link = zipfile.ZipInfo("ada/09_shootout.ipynb")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = zipped(tmp_path / "class.zip", {"../../out.ipynb": text, "/abs/06_lora.ipynb": text, "ada/06_lora.ipynb": text,
                                           "C:/x/06_lora.ipynb": text, "..\\up.ipynb": text, link: "/etc/passwd"})  # fmt: skip
    assert found(path) == [("ada", "06_lora", None)]
    assert not list(tmp_path.rglob("out.ipynb")) and not list(tmp_path.rglob("up.ipynb"))


def test_an_encrypted_zip_is_told(tmp_path, put, text):
    path = zipped(tmp_path / "class/bob.zip", {"06_lora.ipynb": text})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    [bob] = collect(tmp_path / "class")
    assert "encrypted" in bob.problem


@pytest.mark.parametrize("make", [
    lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x"), lambda path: zipped(path, {}),
    lambda path: (path.mkdir(), (path / "notes.txt").write_text("x")),
])  # fmt: skip
def test_a_wrong_folder_is_one_clear_line(make, tmp_path):
    make(tmp_path / "class")
    with pytest.raises(UsageError) as problem:
        collect(tmp_path / "class")
    assert "\n" not in str(problem.value) and "class" in str(problem.value)
