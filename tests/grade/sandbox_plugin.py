"""One warmed process for all tests of the sandbox."""

import os

import pytest
from grade.sandboxes import snapshot, wait_until_gone, walls_or_skip


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """Walls in forked mode, and a package folder that its kernels may see: `forked.package`, with the module `shown`."""
    os.environ["FTLAB_TEST_SECRET"] = "not for kernels"
    with walls_or_skip("forked") as walls:
        walls.package = tmp_path_factory.mktemp("package")
        (walls.package / "shown.py").write_text("ANSWER = 42\n")
        walls.warm()
        yield walls
        leaving = snapshot(walls._zygote.pid)
    del os.environ["FTLAB_TEST_SECRET"]
    assert wait_until_gone(leaving) == []
    assert not walls.folder.exists()
