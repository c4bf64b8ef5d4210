"""ftlab.troubles: each common failure is provoked, for real where a test can, and its remedy is said."""

import http.server
import importlib.metadata
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import types

import pytest

from ftlab import doctor, profile, troubles

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODEL = "HuggingFaceTB/SmolLM2-135M"


def only(found, word, severity):
    """The one problem, which names `word`; returns its remedy."""
    (one,) = found
    assert word in one["what"] and one["severity"] == severity, one
    assert one["remedy"] and "\n" not in one["what"] + one["remedy"]
    return one["remedy"]


@pytest.fixture
def versions(monkeypatch):
    """Changes what is installed: {name: version or None}."""
    changed, real = {}, importlib.metadata.version

    def version(name):
        if changed.get(name, ...) is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return changed.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return changed


# ---- GPU: a fake nvidia-smi on the PATH, a stand-in for torch

@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Puts an nvidia-smi on the PATH that tells of a card and this driver."""
    def install(version):
        path = tmp_path / "bin" / "nvidia-smi"
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\ncase "$1" in *name*) echo "Some GPU";; *driver_version*) echo {version};; esac\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


def torch_of(cuda, available=False, version="2.13.0"):
    return types.SimpleNamespace(__version__=version, version=types.SimpleNamespace(cuda=cuda),
                                 cuda=types.SimpleNamespace(is_available=lambda: available))


def test_nothing_is_said_where_the_gpu_serves(driver):
    driver("580.65.06")
    assert profile.nvidia_gpus() == ["Some GPU"] and profile.nvidia_driver() == "580.65.06"
    assert troubles.gpu(torch_of("13.0", available=True)) == []


def test_cpu_build_of_torch(driver):
    driver("580.65.06")
    remedy = only(troubles.gpu(torch_of(None, version="2.13.0+cpu")), "is a build for the CPU", "note")
    assert "torch==2.13.0" in remedy and "+cpu" not in remedy


@pytest.mark.parametrize(("version", "cuda", "least"), [("535.104.05", "13.0", "580"), ("470.82.01", "12.8", "525")])
def test_driver_too_old(driver, version, cuda, least):
    driver(version)
    remedy = only(troubles.gpu(torch_of(cuda)), f"its driver {version} is too old for torch's CUDA {cuda}", "note")
    assert least in remedy and "older CUDA" in remedy


def test_driver_of_the_same_major_cuda_is_not_blamed(driver, monkeypatch):
    driver("525.60.13")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "unset" in only(troubles.gpu(torch_of("12.8")), "CUDA_VISIBLE_DEVICES='' hides it", "note")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "nvidia-smi" in only(troubles.gpu(torch_of("12.8")), "cannot use it", "note")


def test_card_without_a_driver(tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "nvidia_gpus", lambda: [])
    monkeypatch.setattr(troubles, "PCI", tmp_path)
    for name, vendor, kind in (("0000:00:02.0", "0x8086", "0x030000"), ("0000:01:00.1", "0x10de", "0x040300")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "class").write_text(kind + "\n")
    (tmp_path / "unreadable").mkdir()
    assert troubles.gpu(torch_of("13.0")) == []  # another maker's card, and a card's sound chip
    (tmp_path / "0000:01:00.1" / "class").write_text("0x030200\n")
    assert "--gpus all" in only(troubles.gpu(torch_of("13.0")), "no driver answers", "note")


def test_gpu_asked_for_where_there_is_none(monkeypatch):
    monkeypatch.setenv("FTLAB_PROFILE", "gpu")
    monkeypatch.setattr(profile, "_gpu", lambda: None)
    problems = [p for p in doctor.report()["problems"] if "FTLAB_PROFILE=gpu" in p["what"]]
    assert "unset FTLAB_PROFILE" in only(problems, "no CUDA device", "error")


def test_bitsandbytes_without_the_cuda_of_torch(driver, tmp_path, monkeypatch, versions):
    driver("580.65.06")
    versions["bitsandbytes"] = "0.50.2"
    monkeypatch.setattr(troubles, "_folder", lambda package: tmp_path)
    (tmp_path / "libbitsandbytes_cpu.so").touch()
    (tmp_path / "libbitsandbytes_cuda128.so").touch()
    assert troubles.gpu(torch_of("12.4", available=True)) == []  # another minor version will do
    remedy = only(troubles.gpu(torch_of("13.0", available=True)), "no library for CUDA 13.0", "warning")
    assert "our own 4-bit layers" in remedy
    versions["bitsandbytes"] = None
    assert troubles.gpu(torch_of("13.0", available=True)) == []


def test_the_installed_bitsandbytes_is_read_rightly():
    if troubles.version("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed: pip install bitsandbytes")
    assert troubles.bitsandbytes(torch_of("13.0")) == []
    only(troubles.bitsandbytes(torch_of("99.0")), "CUDA 99.0", "warning")


# ---- packages

def test_torchao_that_peft_refuses(versions):
    versions["torchao"] = "0.10.0+cpu"
    assert "pip uninstall torchao" in only(troubles.torchao(), "torchao 0.10.0", "warning")
    for fine in ("0.16.0", "1.2"):
        versions["torchao"] = fine
        assert troubles.torchao() == []
    versions.update(torchao="0.10.0", peft=None)
    assert troubles.torchao() == []


def test_our_bound_on_torchao_is_the_installed_pefts(versions, monkeypatch):
    """The real peft raises for the version below our bound, and for none at it."""
    from peft import import_utils

    monkeypatch.setattr(import_utils.importlib.util, "find_spec", lambda name: types.SimpleNamespace())
    for version, refused in (("0.15.9", True), (".".join(map(str, troubles.TORCHAO)) + ".0", False)):
        versions["torchao"] = version
        import_utils.is_torchao_available.cache_clear()
        if refused:
            with pytest.raises(ImportError, match="torchao"):
                import_utils.is_torchao_available()
        else:
            assert import_utils.is_torchao_available()
    import_utils.is_torchao_available.cache_clear()


@pytest.mark.parametrize(("kernel", "browser", "wanted"), [("8.1.9", "1.1.11", ">=3,<4"), ("7.8.5", "3.0.15", ">=1,<2"),
                                                            ("8.1.9", None, ">=3,<4")])  # fmt: skip
def test_widgets_and_jupyterlab_that_do_not_fit(versions, kernel, browser, wanted):
    versions.update({"ipywidgets": kernel, "jupyterlab": "4.6.6", "jupyterlab-widgets": browser})
    assert wanted in only(troubles.widgets(), "jupyterlab-widgets", "warning")


def test_widgets_that_fit(versions):
    assert troubles.widgets() == []  # what is installed here
    versions.update({"ipywidgets": "7.7.1", "jupyterlab-widgets": "1.1.11"})
    assert troubles.widgets() == []
    versions.update({"jupyterlab": None, "jupyterlab-widgets": None})  # Colab
    assert troubles.widgets() == []


# ---- port

@pytest.fixture
def outside_jupyter(monkeypatch):
    for name in ("JPY_PARENT_PID", "JUPYTERHUB_USER", "JUPYTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_port_taken(monkeypatch, outside_jupyter):
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        monkeypatch.setenv("JUPYTER_PORT", str(number))
        assert "--port" in only(troubles.port(), f"port {number} is taken", "note")
        monkeypatch.setenv("JPY_PARENT_PID", "1")  # a kernel: what listens is its own JupyterLab
        assert troubles.port() == []
        monkeypatch.delenv("JPY_PARENT_PID")
    assert troubles.port() == []


# ---- network: servers and dead ends on loopback

@pytest.fixture
def network(monkeypatch, tmp_path):
    """An empty cache and no proxy; returns a function that names the Hub's address."""
    for name in (*troubles.PROXIES, "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return lambda address: monkeypatch.setenv("HF_ENDPOINT", address)


@pytest.fixture
def dead():
    """An address on loopback where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
    return f"127.0.0.1:{number}"


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that knows nothing, and a proxy that wants a password."""

    def do_HEAD(self):
        self.send_error(404)

    def do_CONNECT(self):
        self.send_error(407, "Proxy Authentication Required")

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{one.server_port}"
        one.shutdown()


def test_a_hub_that_answers_is_no_problem(network, server):
    network(f"http://{server}")
    assert troubles.network(MODEL) == [] and troubles.network() == []


def test_hub_unreachable(network, dead):
    network(f"http://{dead}")
    remedy = only(troubles.network(MODEL), f"{MODEL} cannot be fetched, and every lab runs on the shipped models", "warning")
    assert "HTTPS_PROXY" in remedy and "FTLAB_BASE" in remedy
    only(troubles.network(), "the labs need no network", "note")


def test_hub_in_the_cache_needs_no_network(network, dead, tmp_path):
    network(f"http://{dead}")
    snapshot = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    assert troubles.network(MODEL) == []


def test_proxy_that_does_not_answer(network, dead, monkeypatch):
    network("https://hub.invalid")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{dead}")
    found = troubles.network(MODEL)
    assert "unset HTTPS_PROXY" in only(found, f"through the proxy {dead} that HTTPS_PROXY names", "warning")
    assert "secret" not in json.dumps(found)


def test_proxy_that_refuses(network, server, monkeypatch):
    network("https://hub.invalid")
    monkeypatch.setenv("https_proxy", server)  # without a scheme, as some write it
    assert "hub.invalid pass" in only(troubles.network(), "407", "note")


def test_hub_that_is_silent(network, monkeypatch):
    """A server that takes the connection and says nothing is given up."""
    monkeypatch.setattr(troubles, "NETWORK_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        network(f"http://127.0.0.1:{server.getsockname()[1]}")
        only(troubles.network(MODEL), "cannot be reached", "warning")


def test_offline_by_wish(network, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "unset" in only(troubles.network(MODEL), "HF_HUB_OFFLINE", "warning")
    assert troubles.network() == []


def test_the_doctor_asks_the_hub_only_where_it_is_needed_or_wanted(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(troubles, "network", lambda needed=None: asked.append(needed) or [])
    monkeypatch.setenv("FTLAB_PROFILE", "cpu")
    monkeypatch.delenv("FTLAB_BASE", raising=False)
    doctor.report(tmp_path)
    monkeypatch.setenv("FTLAB_BASE", str(tmp_path))
    doctor.report(tmp_path)
    assert asked == []
    doctor.report(tmp_path, network=True)
    monkeypatch.setenv("FTLAB_BASE", MODEL)
    doctor.report(tmp_path)
    assert asked == [None, MODEL]


# ---- disk

def test_full_disk(tmp_path):
    """On a disk that is really full: a small one in memory, of this test's own."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here to mount a disk of one's own: install util-linux")
    script = ('mount -t tmpfs -o size=1m tmpfs "$1" && cd "$1" && { head -c 2000000 /dev/zero >fill 2>/dev/null; '
              'exec "$2" -c "import json; from ftlab import doctor; print(json.dumps(doctor.report(\'.\')))"; }')
    done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(tmp_path),
                           sys.executable], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    if done.returncode and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip("this machine lets nobody mount a disk of one's own: " + done.stderr.strip().splitlines()[0])
    found = json.loads(done.stdout)
    assert not doctor.healthy(found) and found["disk_free_gib"] == 0.0
    assert "--dir" in only([p for p in found["problems"] if "disk" in p["what"]], "is full", "error")
