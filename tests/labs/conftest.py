"""Every lab that exists is a parameter of the tests here."""

import os

import pytest

from ftlab.course import catalogue


def pytest_generate_tests(metafunc):
    if "lab" in metafunc.fixturenames:
        metafunc.parametrize("lab", catalogue.lab_names(), scope="module")


@pytest.fixture(autouse=True)
def headless_and_fast(monkeypatch):
    monkeypatch.setenv("FTLAB_HEADLESS", "1")
    monkeypatch.setenv("FTLAB_FAST", os.environ.get("FTLAB_FAST", "1"))  # `make test-all` sets 0: everything in full
    monkeypatch.setenv("MPLBACKEND", "agg")
