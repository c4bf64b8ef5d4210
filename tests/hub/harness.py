"""A real JupyterHub on loopback: its proxy, its configuration as shipped, students' servers as local processes.

Where this is root, and other users can read the checkout, each student is a system user of their own, made for the test
and removed after it; elsewhere all are processes of one user in separate folders, and nothing stands between them.
"""

import contextlib
import os
import pathlib
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import time

import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "docker" / "jupyterhub" / "jupyterhub_config.py"
# Made by `make test-hub`: a virtual environment with the hub, and the proxy from npm.
HUB = pathlib.Path(os.environ.get("FTLAB_HUB_BUILD") or ROOT / "build" / "hub").resolve()
PYTHON = HUB / "venv" / "bin" / "python"
PROXY = HUB / "node_modules" / ".bin" / "configurable-http-proxy"
PREFIX = "ftlab-hub-test-"  # of the system users that a test makes
PATIENCE = 600  # seconds for what takes one on an idle machine: ten servers share its cores


def missing():
    """What this machine lacks for a hub, as a line; None when it is all there."""
    if not PYTHON.exists() or not PROXY.exists():
        return "no JupyterHub under build/hub: `make test-hub` makes it"
    return None


def site_packages(python):
    """The folder of an environment's packages."""
    return subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()


def wait_for(condition, seconds, what, every=0.3):
    """The first true value of condition(), asked again and again; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(requests.ConnectionError):
            if value := condition():
                return value
        time.sleep(every)
    raise AssertionError(f"{what}: not after {seconds} s")


def free_ports(count):
    """Ports of loopback that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


class Users:
    """The students' system users, in homes of mode 0700 under `folder`. A context manager; root only."""

    def __init__(self, folder, count):
        self.folder = folder
        mark = secrets.token_hex(2)
        self.names = [f"{PREFIX}{mark}-{number:02}" for number in range(count)]

    def __enter__(self):
        try:
            for name in self.names:
                subprocess.run(
                    ["useradd", "--no-log-init", "--user-group", "--create-home", "--home-dir", self.folder / name,
                     "--key", "HOME_MODE=0700", "--shell", "/bin/sh", name],
                    check=True, capture_output=True,
                )  # fmt: skip
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in self.names:
            with contextlib.suppress(KeyError):
                uid = pwd.getpwnam(name).pw_uid
                end_processes_of(uid)
                subprocess.run(["userdel", "--remove", name], check=False, capture_output=True)


def end_processes_of(uid):
    """Kill what still runs as the system user `uid`, one of ours; the hub has ended what it knew of."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == uid:
                os.kill(int(folder.name), signal.SIGKILL)


# Run in a view of the files of its own: folders that only root may pass are covered by empty ones that all may pass, into
# which what is needed is brought back. Nothing outside of this process and its children sees it.
PASSABLE = """
stage=$1; count=$2; shift 2
i=0; for path in "$@"; do
    i=$((i + 1)); [ $i -le "$count" ] || break
    if [ -d "$path" ]; then mkdir -p "$stage/$i"; else : >"$stage/$i"; fi
    mount --bind "$path" "$stage/$i"
done
i=0; while [ $i -lt "$count" ]; do
    i=$((i + 1)); path=$1; shift
    while :; do  # the outermost folder on the way that others may not pass
        barred=; folder=$(dirname "$path")
        while [ "$folder" != / ]; do
            if [ -d "$folder" ]; then case $(stat -c %A "$folder") in *x|*t) ;; *) barred=$folder ;; esac; fi
            folder=$(dirname "$folder")
        done
        [ -n "$barred" ] || break
        mount -t tmpfs -o mode=755,size=1m tmpfs "$barred"
    done
    if [ -d "$stage/$i" ]; then mkdir -p "$path"; else mkdir -p "$(dirname "$path")"; [ -e "$path" ] || : >"$path"; fi
    mount --bind "$stage/$i" "$path"
done
exec "$@"
"""


def passable(command, stage):
    """`command`, wrapped so that other system users can pass to the checkout and the environments; needs root.

    stage: an empty folder to mount things in, unseen from outside.
    """
    needed = {ROOT, HUB, pathlib.Path(sys.prefix), pathlib.Path(sys.base_prefix)}
    needed |= {path.resolve() for path in (HUB / "venv", HUB / "node_modules", pathlib.Path(sys.prefix))}
    barred = [path for path in sorted(needed) if not all(_open(parent) for parent in path.parents)]
    # What is itself closed to others is brought back as its contents.
    paths = [str(part) for path in barred for part in ([path] if _open(path) else sorted(path.iterdir()))]
    return ["unshare", "--mount", "sh", "-euc", PASSABLE, "sh", str(stage), str(len(paths)), *paths, *command]


def _open(folder):
    return bool(folder.stat().st_mode & 0o001)


def others_can_run(stage, uid):
    """None when system user `uid` can start a student's server from this checkout, else what went wrong, in a line."""
    pathlib.Path(stage).mkdir()
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-c",
               "import ftlab.course.workfolder, jupyterhub.singleuser, jupyterlab"]  # fmt: skip
    done = subprocess.run(
        passable(command, stage), cwd="/", env=os.environ | student_environment() | {"HOME": "/nonexistent"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return (done.stderr.strip().splitlines() or ["it failed"])[-1] if done.returncode else None


class Hub:
    """The proxy and the hub as processes. A context manager: on leaving, the hub stops all servers."""

    def __init__(self, folder, admins, spawner, **settings):
        """folder: state and logs lie in it. settings: FTLAB_HUB_* without that prefix, over those of the test."""
        self.folder = pathlib.Path(folder)
        (self.folder / "state").mkdir(parents=True)
        self.port, self.api_port, self.hub_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_password = secrets.token_hex(12)
        password = self.folder / "admin-password"
        password.touch(mode=0o600)
        password.write_text(self.admin_password + "\n")
        self.settings = {
            "SPAWNER": spawner,
            "ADMINS": ",".join(admins),
            "ADMIN_PASSWORD_FILE": str(password),
            "STATE": str(self.folder / "state"),
            "HOMES": str(self.folder / "homes"),
            "URL": self.url,
            "PROXY": f"http://127.0.0.1:{self.api_port}",
            "PYTHON": sys.executable,
            "IDLE_SECONDS": "0",
        } | settings
        self.token = secrets.token_hex(16)  # the proxy's
        self.proxy = self.process = None

    def environment(self):
        """Of hub and proxy. The students' servers run in the course's environment and find jupyterhub in the hub's."""
        kept = {key: value for key, value in os.environ.items()
                if not key.upper().endswith("_PROXY") and not key.startswith(("JUPYTER", "FTLAB_", "COV"))}  # fmt: skip
        return kept | {f"FTLAB_HUB_{name}": value for name, value in self.settings.items()} | student_environment() | {
            "CONFIGPROXY_AUTH_TOKEN": self.token,
            "PATH": f"{HUB / 'venv' / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip

    def __enter__(self):
        try:
            self.start_proxy()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _launch(self, command, log):
        if self.settings["SPAWNER"] == "local":
            stage = self.folder / f"stage-{secrets.token_hex(4)}"
            stage.mkdir()
            command = passable(command, stage)
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def start_proxy(self):
        """configurable-http-proxy, apart from the hub, as in compose.yml."""
        hub = f"http://127.0.0.1:{self.hub_port}"
        self.proxy = self._launch(
            [PROXY, "--ip=127.0.0.1", f"--port={self.port}", "--api-ip=127.0.0.1", f"--api-port={self.api_port}",
             f"--default-target={hub}", f"--error-target={hub}/hub/error"], "proxy.log",
        )  # fmt: skip

    def start(self):
        """Start the hub, and wait until it answers through the proxy."""
        command = [PYTHON, "-m", "jupyterhub", f"--config={CONFIG}", f"--JupyterHub.hub_port={self.hub_port}"]
        self.process = self._launch(command, "hub.log")
        wait_for(self._ready, PATIENCE, "the hub does not answer")

    def _ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"the hub ended by itself:\n{self.log()[-3000:]}")
        return requests.get(f"{self.url}/hub/api/", timeout=30).status_code == 200

    def stop(self):
        """Stop the hub, and leave the students' servers and the proxy running, as an upgrade does."""
        self.process.terminate()
        self.process.wait(120)

    def restart(self, **settings):
        """Stop the hub, change settings, start it."""
        self.stop()
        self.settings |= settings
        self.start()

    def log(self):
        """What the hub wrote."""
        return (self.folder / "hub.log").read_text(encoding="utf-8", errors="replace")

    def __exit__(self, *_):
        for process in (self.process, self.proxy):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(120)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(60)


def student_environment():
    """Of a student's server: its python is the course's, which finds jupyterhub and nbgitpuller in the hub's environment."""
    ours = [site_packages(PYTHON), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(ours),
        "JUPYTER_CONFIG_PATH": str(HUB / "venv" / "etc" / "jupyter"),
        "LANG": "C.UTF-8",
    }


def tree(pid):
    """`pid` and all processes below it."""
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        queue += children.get(found[-1], [])
    return found


def memory_mib(pid):
    """Proportional set size of a process and all below it, in MiB: a page that n processes share counts 1/n in each."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def processor_seconds(pid):
    """What a process and all below it have computed so far, with those of them that ended."""
    ticks = 0
    for process in tree(pid):
        with contextlib.suppress(OSError):
            fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime, stime, and both of the children that were waited for
    return ticks / os.sysconf("SC_CLK_TCK")
