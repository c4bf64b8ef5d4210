"""A tree with one lab from the template, built; made once, copied for those who change it."""

import shutil

import pytest
from course.course_tree import LAB, Tree

from ftlab.course import catalogue


@pytest.fixture(scope="session")
def built_tree(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkout")
    shutil.copytree(
        catalogue.PACKAGE, path / "ftlab",
        ignore=lambda folder, names: [n for n in names if n in ("assets", "__pycache__") or n[:2].isdigit()],
    )  # fmt: skip
    here = catalogue.ROOT / "tests"
    (path / "tests" / "labs").mkdir(parents=True)
    (path / "solutions").mkdir()
    for name in ("conftest.py", "test_labs.py", "nbval_ftlab.py"):
        shutil.copy(here / "labs" / name, path / "tests" / "labs")
    tree = Tree(path)
    done = tree.ftlab("new", LAB)
    assert done.returncode == 0, done.stderr
    return tree


@pytest.fixture
def tree(built_tree, tmp_path):
    """A copy of the built tree, to be changed."""
    shutil.copytree(built_tree.path, tmp_path / "checkout")
    return Tree(tmp_path / "checkout")
