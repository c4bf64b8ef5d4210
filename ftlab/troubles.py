"""What commonly goes wrong around the course, each with its remedy: GPU and driver, JupyterLab's parts, port, network.

Each function looks at one thing and returns a list of problems as `ftlab.doctor` reports them. None takes longer than
NETWORK_SECONDS, and none loads anything heavy; torch is handed in by who has loaded it.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request

from ftlab import online, profile

NETWORK_SECONDS = 2.0
PORT = 8888  # JupyterLab's
# The least driver for each major version of CUDA; within one any minor version runs (NVIDIA, CUDA Compatibility).
DRIVERS = {11: 450, 12: 525, 13: 580}
TORCHAO = (0, 16)  # older ones peft refuses, raising from the first layer that it adapts
PCI = pathlib.Path("/sys/bus/pci/devices")
NVIDIA = "0x10de"  # the vendor's number on the PCI bus
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def problem(severity, what, remedy):
    """One problem; severity is a name in `doctor.SEVERITIES`."""
    return {"severity": severity, "what": what, "remedy": remedy}


def version(name):
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(text):
    """The leading numbers of a version, as a tuple: "0.16.1+cu128" -> (0, 16, 1)."""
    return tuple(int(part) for part in re.match(r"\d+(?:\.\d+)*", text or "0").group().split("."))


# ---- GPU

def gpu(torch):
    """A GPU that is there and not used, and why: no driver, a CPU build of torch, an old driver, hidden from torch."""
    found = profile.nvidia_gpus()
    if not found:
        return _card_without_driver()
    if torch.cuda.is_available():
        return bitsandbytes(torch)
    here = f"this machine has a GPU ({found[0]}), but"
    if torch.version.cuda is None:
        return [problem("note", f"{here} torch {torch.__version__} is a build for the CPU",
                        "the CPU labs need no GPU; to use it, install a CUDA build of the same version of torch, from PyPI or "
                        f"PyTorch's own index: pip install --force-reinstall torch=={torch.__version__.partition('+')[0]}")]
    driver, least = profile.nvidia_driver(), DRIVERS.get(numbers(torch.version.cuda)[0])
    if driver and least and numbers(driver)[0] < least:
        return [problem("note", f"{here} its driver {driver} is too old for torch's CUDA {torch.version.cuda}",
                        f"update the NVIDIA driver to {least} or later (on the host, where this is a container), or install "
                        "a build of torch for an older CUDA")]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        hidden = os.environ["CUDA_VISIBLE_DEVICES"]
        return [problem("note", f"{here} CUDA_VISIBLE_DEVICES={hidden!r} hides it from torch",
                        "unset CUDA_VISIBLE_DEVICES, or set it to 0")]
    return [problem("note", f"{here} torch (built for CUDA {torch.version.cuda}) cannot use it",
                    "update the NVIDIA driver and restart the machine, or look whether another program holds the GPU: "
                    "nvidia-smi")]


def _card_without_driver():
    """A card on the bus of which no driver tells."""
    for folder in PCI.glob("*"):
        try:
            vendor, kind = ((folder / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == NVIDIA and kind.startswith("0x03"):  # a display or 3D controller, not its sound chip
            return [problem("note", "this machine has an NVIDIA card, but no driver answers (nvidia-smi)",
                            "the CPU labs need no GPU; to use it, install the NVIDIA driver; in a container, start that with "
                            "--gpus all, which needs the NVIDIA Container Toolkit on the host")]
    return []


def bitsandbytes(torch):
    """bitsandbytes without a library for the CUDA that torch was built for; then 4-bit layers of its kind cannot be made."""
    if version("bitsandbytes") is None:
        return []  # said among the packages
    folder = _folder("bitsandbytes")
    libraries = folder.glob("libbitsandbytes_cuda*.so") if folder else ()
    built = {int(path.stem.rpartition("cuda")[2]) // 10 for path in libraries}  # cuda128 -> 12
    major = numbers(torch.version.cuda)[0]
    if major in built:
        return []
    what = f"bitsandbytes {version('bitsandbytes')} has no library for CUDA {torch.version.cuda}, which torch uses"
    return [problem("warning", what, "pip install --upgrade --force-reinstall bitsandbytes, from PyPI; without it the labs "
                                     "use our own 4-bit layers")]  # fmt: skip


def _folder(package):
    spec = importlib.util.find_spec(package)
    return pathlib.Path(spec.origin).parent if spec and spec.origin else None


# ---- packages that do not fit each other

def torchao():
    """A torchao that peft refuses."""
    there = version("torchao")
    if there is None or version("peft") is None or numbers(there) >= TORCHAO:
        return []
    least = ".".join(map(str, TORCHAO))
    return [problem("warning", f"torchao {there} is too old for peft, which raises when it finds one before {least}",
                    f'nothing here needs it: pip uninstall torchao, or pip install "torchao>={least}"')]


def widgets():
    """ipywidgets in the kernel and its part in JupyterLab: 8 belongs to jupyterlab-widgets 3, 7 to jupyterlab-widgets 1."""
    kernel, lab, browser = (version(name) for name in ("ipywidgets", "jupyterlab", "jupyterlab-widgets"))
    if kernel is None or lab is None:
        return []
    wanted = 3 if numbers(kernel)[0] >= 8 else 1
    remedy = f'pip install "jupyterlab-widgets>={wanted},<{wanted + 1}", then restart JupyterLab and reload the page'
    if browser is None:
        what = f"JupyterLab {lab} lacks the part that shows ipywidgets {kernel}: jupyterlab-widgets"
        return [problem("warning", what, remedy)]
    if numbers(browser)[0] != wanted:
        what = f"jupyterlab-widgets {browser} does not fit ipywidgets {kernel}: widgets stay empty"
        return [problem("warning", what, remedy)]
    return []


# ---- port

def port():
    """JupyterLab's port (JUPYTER_PORT, else 8888) when something listens there already; nothing from inside a JupyterLab."""
    if "JPY_PARENT_PID" in os.environ or "JUPYTERHUB_USER" in os.environ:
        return []
    text = os.environ.get("JUPYTER_PORT", "").strip()
    number = int(text) if text.isdigit() and 0 < int(text) < 2**16 else PORT
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was left a moment ago is free
        try:
            one.bind(("127.0.0.1", number))
        except PermissionError:
            return [problem("note", f"port {number} may not be used without the administrator's rights",
                            "choose one above 1023: ftlab lab --port 8889")]
        except OSError:
            what = f"port {number} is taken, perhaps by a JupyterLab that runs already (jupyter server list)"
            return [problem("note", what, "ftlab lab takes the next free one, whose address it prints; a tunnel or container "
                                          "that hands on one port only needs it free, or another: ftlab lab --port 8889")]
    return []


# ---- network

def network(needed=None):
    """Whether the Hugging Face Hub can be reached, within NETWORK_SECONDS. needed: the Hub id that the labs would fetch, or
    None where nobody needs the network. What is in the Hub's cache on disk needs none."""
    if needed and _cached(needed):
        return []
    severity = "warning" if needed else "note"
    without = (f"without it {needed} cannot be fetched, and every lab runs on the shipped models" if needed else
               "the labs need no network: their models are shipped")
    if online.offline():
        return [problem(severity, f"HF_HUB_OFFLINE keeps the Hugging Face Hub's client from the network; {without}",
                        "unset HF_HUB_OFFLINE")] if needed else []
    where = os.environ.get("HF_ENDPOINT", "").strip() or "https://huggingface.co"
    reason = _answer(where)
    if reason is None:
        return []
    used = next((name for name in PROXIES if os.environ.get(name)), None)
    if used is None:
        return [problem(severity, f"the Hugging Face Hub cannot be reached ({reason}); {without}",
                        "connect to the internet, or set HTTPS_PROXY to your network's proxy; or fetch the model on another "
                        "machine and set FTLAB_BASE to its folder")]
    text = os.environ[used]
    proxy = urllib.parse.urlsplit(text if "://" in text else f"//{text}")
    name = f"{proxy.hostname}:{proxy.port}" if proxy.port else proxy.hostname  # without a name and password in it
    return [problem(severity, f"the Hugging Face Hub cannot be reached through the proxy {name} that {used} names ({reason}); "
                              f"{without}",
                    f"mend or unset {used}, or ask who runs the proxy to let {urllib.parse.urlsplit(where).hostname} pass")]


def _cached(model):
    """Whether a snapshot of a Hub model lies in the Hub's cache."""
    home = pathlib.Path(os.environ.get("HF_HOME") or pathlib.Path.home() / ".cache" / "huggingface")
    cache = pathlib.Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return any(cache.glob(f"models--{model.replace('/', '--')}/snapshots/*/config.json"))


def _answer(address):
    """None where a server answers at `address`, whatever it says; else why not, in words."""
    found, proxies = ["no answer within 2 s"], urllib.request.getproxies()
    proxies = {"https": proxies.get("all")} | proxies if proxies.get("all") else proxies  # as the Hub's client does
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))

    def ask():
        try:
            request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "ftlab-doctor"})
            opener.open(request, timeout=NETWORK_SECONDS).close()
            found[0] = None
        except urllib.error.HTTPError:
            found[0] = None  # it answered
        except (OSError, ValueError) as error:
            found[0] = str(getattr(error, "reason", error)) or type(error).__name__

    # In a thread: looking a name up has no timeout of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    return found[0]
