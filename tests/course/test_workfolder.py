import pytest

from ftlab.course import catalogue
from ftlab.course.workfolder import copy_labs, jupyter_command
from ftlab.errors import UsageError

LAB, OTHER = "01_one", "02_two"


@pytest.fixture
def labs(tmp_path, monkeypatch):
    folder = tmp_path / "course"
    folder.mkdir()
    for name in (LAB, OTHER):
        (folder / f"{name}.ipynb").write_text(f"{name}, first release")
    monkeypatch.setattr(catalogue, "labs_folder", lambda: folder)
    monkeypatch.setattr(catalogue, "lab_names", lambda: [LAB, OTHER, "03_unbuilt"])
    monkeypatch.delenv("FTLAB_WORK", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def text(folder, name):
    return (folder / name).read_text()


def test_labs_are_copied_once(labs, tmp_path):
    folder, lines = copy_labs()
    assert folder.resolve() == tmp_path / "ftlab-work" and len(lines) == 2
    assert sorted(path.name for path in folder.glob("*.ipynb")) == [f"{LAB}.ipynb", f"{OTHER}.ipynb"]
    assert copy_labs()[1] == []


def test_one_lab_into_a_folder_of_ones_own(labs, tmp_path, monkeypatch):
    folder, _ = copy_labs("1", tmp_path / "mine")
    assert [path.name for path in folder.glob("*.ipynb")] == [f"{LAB}.ipynb"]
    monkeypatch.setenv("FTLAB_WORK", str(tmp_path / "set"))
    assert copy_labs("1")[0] == tmp_path / "set"


def test_changed_work_stays_and_a_newer_release_lies_beside_it(labs):
    folder, _ = copy_labs()
    (folder / f"{LAB}.ipynb").write_text("my work")
    assert copy_labs()[1] == [], "no newer release: nothing to say"
    (labs / f"{LAB}.ipynb").write_text("second release")
    (line,) = copy_labs()[1]
    assert f"{LAB}.new.ipynb" in line and "stays" in line
    assert text(folder, f"{LAB}.ipynb") == "my work"
    assert text(folder, f"{LAB}.new.ipynb") == "second release"
    assert copy_labs()[1] == []
    (labs / f"{LAB}.ipynb").write_text("third release")
    copy_labs()
    assert text(folder, f"{LAB}.new.ipynb") == "third release", "untouched, so it may be brought up to date"


def test_work_in_the_newer_copy_is_not_overwritten_either(labs):
    folder, _ = copy_labs()
    (folder / f"{LAB}.ipynb").write_text("my work")
    (labs / f"{LAB}.ipynb").write_text("second release")
    copy_labs()
    (folder / f"{LAB}.new.ipynb").write_text("my work in the new one")
    (labs / f"{LAB}.ipynb").write_text("third release")
    (line,) = copy_labs()[1]
    assert "rename it" in line
    assert text(folder, f"{LAB}.new.ipynb") == "my work in the new one"


def test_an_untouched_lab_is_brought_up_to_date(labs):
    folder, _ = copy_labs()
    (labs / f"{LAB}.ipynb").write_text("second release")
    assert copy_labs()[1] == [f"brought {LAB}.ipynb up to date"]
    assert text(folder, f"{LAB}.ipynb") == "second release"


def test_without_its_record_every_copy_counts_as_work(labs):
    folder, _ = copy_labs()
    (folder / ".ftlab.json").write_text("{")
    (labs / f"{LAB}.ipynb").write_text("second release")
    copy_labs()
    assert text(folder, f"{LAB}.ipynb") == f"{LAB}, first release"


def test_folders_that_will_not_do(labs, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", labs):
        with pytest.raises(UsageError, match="--dir"):
            copy_labs(folder=folder)
    with pytest.raises(UsageError, match="not built yet"):
        copy_labs("03_unbuilt")


def test_jupyterlab_starts_in_the_work_folder_at_the_lab(labs, monkeypatch):
    folder, _ = copy_labs("1")
    command = jupyter_command(folder, "1", browser=False, port=8899)
    assert f"--ServerApp.root_dir={folder.resolve()}" in command and "--port=8899" in command
    assert f"--LabApp.default_url=/lab/tree/{LAB}.ipynb" in command and "--no-browser" in command
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "--allow-root" in jupyter_command(folder)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert not {"--allow-root", "--no-browser"} & set(jupyter_command(folder))
