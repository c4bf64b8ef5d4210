"""Fixtures of the browser's tests: one JupyterLab and one Chromium for all of them, a fresh page for each."""

import pathlib
import sys

import pytest
from browser.harness import PATIENCE, Notebook, Server, browser


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("jupyter")) as running:
        yield running


@pytest.fixture(scope="session")
def course(tmp_path_factory):
    """What `make lab` opens: the JupyterLab of `ftlab lab`, on a private copy of the labs in its work folder."""
    ftlab = pathlib.Path(sys.executable).with_name("ftlab")
    command = [str(ftlab), "lab", "--dir", "{work}", "--no-browser", "--port", "{port}"]
    with Server(tmp_path_factory.mktemp("course"), command) as running:
        yield running


@pytest.fixture(scope="session")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture
def open_notebook(server, chromium):
    """A function that opens a notebook of a server's work folder, by its name there, in a window of its own."""
    opened = []

    def open_one(name, on=server):
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        notebook = Notebook(page, on, name)
        opened.append((context, notebook))
        return notebook

    yield open_one
    for context, notebook in opened:
        notebook.close()
        context.close()
