"""What every test shares: the same surroundings on every machine, and the markers' meaning."""

import os
import shutil

import parts
import pytest

from ftlab import profile

# Before torch is loaded. A container's CPU quota is nothing that torch looks at: too many threads stand in line.
PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # of tests at a time
if PROCESSES > 1:  # they inherit what the one that started them has set for itself
    os.environ["OMP_NUM_THREADS"] = str(max(1, profile.cores() // PROCESSES))
os.environ.setdefault("OMP_NUM_THREADS", str(profile.cores()))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
# The tests' numbers are the CPU's; no test goes to the network unless it says so itself.
os.environ.setdefault("FTLAB_PROFILE", "cpu")
os.environ.pop("FTLAB_BASE", None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# However slow the machine is: a command that takes over half a minute would say so among what a test reads.
os.environ.setdefault("FTLAB_PROGRESS", "0")

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


def chromium():
    """The path of a Chromium on this machine, or None."""
    return next((found for found in map(shutil.which, CHROMIUMS) if found), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """As many processes as cores, up to four, since each takes about a GiB."""
    return min(4, profile.cores())


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several processes
        session.config.workeroutput["plain"] = parts.plain


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    parts.plain += getattr(node, "workeroutput", {}).get("plain", ())


def pytest_collection_modifyitems(items):
    no_browser = None if chromium() else "no Chromium found: `make test-browser` installs one"
    for item in items:
        if item.get_closest_marker("full") and profile.fast():
            item.add_marker(pytest.mark.skip(reason="runs in full only: `make test-all`"))
        if item.get_closest_marker("browser") and no_browser:
            # `make test-browser` asks for a browser: there, having none is a failure.
            if os.environ.get("FTLAB_NEED_BROWSER") == "1":
                raise pytest.UsageError(no_browser)
            item.add_marker(pytest.mark.skip(reason=no_browser))


def pytest_terminal_summary(terminalreporter):
    """The last lines: what was not run, and the command that runs it, since -q names no reasons."""
    reasons = {}
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        reasons[reason] = reasons.get(reason, 0) + 1
    for line in parts.lines(reasons):
        terminalreporter.write_line(line)
