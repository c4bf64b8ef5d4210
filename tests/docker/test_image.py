"""The image, built for real with buildah and used as students, hubs and graders do: `make test-image`.

The container's processes run in a chroot, with this machine's network and process numbers: what a runtime adds (limits,
seccomp, a network of its own) is not tested here.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "image"
HUB_USER = 12345  # a number that the image does not know
SMOKE = ("tests/test_cli.py", "tests/test_doctor.py", "tests/test_profile.py", "tests/course/test_workfolder.py",
         "tests/world/test_grammar.py", "tests/measure/test_score.py", "tests/train/test_schedule.py",
         "tests/tune/test_lora.py")  # fmt: skip

pytestmark = [pytest.mark.full, pytest.mark.timeout(7200)]


def _builder():
    spec = importlib.util.spec_from_file_location("ftlab_image_build", ROOT / "docker" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Image:
    """An image and one container of it; `run` runs what a container runtime would: the entry point with arguments."""

    def __init__(self, buildah, name):
        self.buildah, self.name = buildah, name
        self.config = buildah.config(name)
        self.container = buildah.run("from", "--pull-never", name)
        self.root = pathlib.Path(buildah.run("mount", self.container))

    def command(self, arguments, user=None, mounts=None, entry=True, output=None, **environment):
        """The command line that runs `arguments` in the container; mounts: {folder here: path there}.

        output: a folder here for the files `out` and `err`, in place of the command line's own output.
        """
        mounts = {**(mounts or {}), **({output: "/mnt"} if output else {})}
        options = ["--isolation=chroot", *(["--user", user] if user else [])]
        options += [f"--volume={here}:{there}" for here, there in mounts.items()]
        # The first process of a container is not number 1 here: tini wants to be told.
        environment = {"FTLAB_FAST": "1", "OMP_NUM_THREADS": "1", "TINI_SUBREAPER": "1", **environment}
        named = [f"{name}={value}" for name, value in environment.items()]
        keep = ["sh", "-c", 'exec "$@" >/mnt/out 2>/mnt/err', "sh"] if output else []
        entry = self.config["Entrypoint"] if entry else []
        return self.buildah.command("run", *options, self.container, "--", "env", *named, *keep, *entry, *arguments)

    def run(self, *arguments, **options):
        """What became of `arguments`. Output comes by files: buildah may end before it has handed on the last words."""
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o777)
            command = self.command(arguments, output=folder, **options)
            out, err = pathlib.Path(folder, "out"), pathlib.Path(folder, "err")
            for _ in range(3):
                done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
                # buildah starts itself from a sealed copy in memory, and now and then cannot seal it: nothing has run then.
                if err.exists() or "sealing memfd copy" not in done.stderr:
                    break
            assert err.exists(), f"nothing was started: {done.stderr}"
            done.stdout, done.stderr = out.read_text(), err.read_text()
        return done

    def run_in_namespaces(self, *arguments, mounts=None):
        """As `run`, as the image's user, behind bubblewrap in place of a chroot: in one nobody can make namespaces."""
        root = ["--bind", self.root, "/"]
        for name in ("/dev", "/proc", "/sys"):
            root += ["--dev-bind", name, name]
        for here, there in (mounts or {}).items():
            root += ["--bind", here, there]
        named = [pair.split("=", 1) for pair in self.config["Env"]]
        named += [("TINI_SUBREAPER", "1"), ("FTLAB_FAST", "1"), ("OMP_NUM_THREADS", "1")]
        variables = [word for name, value in named for word in ("--setenv", name, value)]
        become = ["setpriv", "--reuid", self.config["User"], "--regid", self.config["User"], "--clear-groups"]
        command = ["bwrap", *root, "--chdir", self.config["WorkingDir"], "--clearenv", *variables, "--cap-add", "ALL", "--",
                   *become, *self.config["Entrypoint"], *arguments]  # fmt: skip
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def files(self, pattern):
        return [str(path.relative_to(self.root)) for path in self.root.glob(pattern)]


@pytest.fixture(scope="module")
def builder():
    module = _builder()
    try:
        module.buildah = module.Buildah(os.environ.get("FTLAB_IMAGE_FOLDER", BUILD))
    except module.Failed as problem:
        if os.environ.get("FTLAB_NEED_IMAGE") == "1":
            raise
        pytest.skip(f"{problem} (or make test-image)")
    yield module
    module.buildah.release()


def _built(builder, target, arguments=()):
    """Build `target` with what the machine's settings say; an Image that is gone afterwards. Its layers are kept."""
    tag, say = f"localhost/ftlab-test-{target}", lambda text: print(f"\n{text}", flush=True)
    base, index = os.environ.get("FTLAB_IMAGE_BASE"), os.environ.get("TORCH_INDEX")
    arguments = [*arguments, *([f"TORCH_INDEX={index}"] if index else [])]
    mirror = os.environ.get("FTLAB_IMAGE_MIRROR")
    suite = os.environ.get("FTLAB_IMAGE_SUITE") or builder.SUITE
    done = builder.build(builder.buildah, tag, target, base, suite, mirror, arguments, say)
    say(f"{target}: {done['bytes'] / 1e6:,.0f} MB unpacked, built in {done['seconds']} s on {done['base']}")
    return Image(builder.buildah, tag)


@pytest.fixture(scope="module")
def image(builder):
    made = _built(builder, "course")
    yield made
    builder.buildah.run("rm", made.container)


@pytest.fixture
def home(tmp_path):
    """A folder that a student has worked in before, in a volume of the user HUB_USER."""
    folder = pathlib.Path(tmp_path, "home")
    work = folder / "ftlab-work"
    work.mkdir(parents=True)
    (work / "01_autoregression.ipynb").write_text("a student's work")
    for path in (folder, work, *work.iterdir()):
        os.chown(path, HUB_USER, 0)
    return folder


# ---- what it holds


def test_the_image_says_how_it_is_used(image):
    config = image.config
    assert config["Entrypoint"][0] == "tini" and config["Cmd"] == ["lab"] and config["User"] == "1000"
    assert config["Healthcheck"]["Test"][0] == "CMD" and config["WorkingDir"] == "/home/jovyan"
    assert "8888/tcp" in config["ExposedPorts"]


def test_nothing_of_the_build_is_left(builder, image):
    told = json.dumps(json.loads(builder.buildah.run("inspect", "--type", "image", image.name)))
    settings = builder.pip_settings()
    places = {word for name in builder.PLACES for word in settings.get(name, "").split()} - {"https://pypi.org/simple"}
    assert [place for place in {*places, "http://127.0.0.1"} if place in told] == []
    assert image.files("run/secrets/*") == image.files("root/.cache/*") == image.files("root/.config/*") == []
    assert image.files("var/lib/apt/lists/*") == image.files("tmp/*") == []
    assert (image.root / "etc/resolv.conf").read_text() == ""
    assert image.files("etc/pip.conf") == image.files("etc/xdg/pip/*") == image.files("opt/venv/pip.conf") == []
    folders = [image.root / name for name in ("etc", "opt/build", "opt/image", "root", "home")]
    settings = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    kept = [str(path) for path in settings for place in places if place.encode() in path.read_bytes()]
    assert len(settings) > 50 and kept == []


def test_the_students_user_owns_a_home_and_nothing_of_the_course(image):
    done = image.run("sh", "-c", "id -u; whoami; pwd; echo $HOME; touch $HOME/x; touch /opt/ftlab/x /opt/venv/x; true")
    assert done.stdout.split() == ["1000", "jovyan", "/home/jovyan", "/home/jovyan"], done.stderr
    assert done.stderr.count("Permission denied") == 2
    assert set(image.files("opt/ftlab/*")) >= {"opt/ftlab/ftlab", "opt/ftlab/labs", "opt/ftlab/solutions"}


@pytest.mark.parametrize(("user", "environment"), [(f"{HUB_USER}:0", {}), ("0", {"NB_UID": str(HUB_USER), "NB_GID": "100"})])
def test_a_hub_sets_the_user(image, user, environment):
    code = "import os, getpass, torch; print(os.getuid(), getpass.getuser(), torch.ones(2).sum().item())"
    done = image.run("python", "-c", code, user=user, **environment)
    assert done.stdout.split() == [str(HUB_USER), "jovyan", "2.0"], done.stderr


def test_versions_are_the_locks(image):
    lines = image.run("pip", "list", "--format=freeze").stdout.splitlines()
    found = dict(line.split("==") for line in lines if "==" in line)
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    other = {name: version for name, version in found.items() if pins.get(name, version) != version.split("+")[0]}
    assert other == {} and {"torch", "jupyterlab", "jupyterhub", "nbgitpuller", "peft", "trl", "ftlab"} <= set(found)


def test_nothing_misses_what_was_left_out(image):
    code = """
import bitsandbytes, datasets, debugpy, distributed, io, pyarrow.dataset, pyarrow.fs, sympy, torch, torch._dynamo, trl
import matplotlib.pyplot
rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
rows.to_parquet("/tmp/rows.parquet")
assert datasets.Dataset.from_parquet("/tmp/rows.parquet")["text"][1] == "b"
matplotlib.pyplot.plot([1, 2])
matplotlib.pyplot.savefig(io.BytesIO(), format="pdf")  # fontTools cuts the fonts
torch.multiprocessing.set_sharing_strategy("file_system")
assert torch.ones(2).share_memory_().is_shared()  # by torch_shm_manager
"""
    done = image.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    done = image.run("pip", "check")
    assert done.stdout.strip() == "No broken requirements found.", done.stdout


# ---- a student, a hub


@contextlib.contextmanager
def started(image, *arguments, **options):
    """A server in the container; yields its process. At the end it is asked to stop, as `docker stop` does."""
    log = open(image.buildah.folder / "server.log", "w+")
    process = subprocess.Popen(image.command(arguments, **options), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    process.log = lambda: pathlib.Path(log.name).read_text()
    try:
        yield process
    finally:
        for child in _below(process.pid):
            with contextlib.suppress(ProcessLookupError):
                if pathlib.Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"tini\0"):
                    os.kill(child, signal.SIGTERM)
        process.wait(60)
        log.close()


def _below(pid):
    children = [int(word) for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    return [pid for child in children for pid in (*_below(child), child)]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def page(address):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=20) as answer:
        return answer.read().decode()


def test_the_server_of_a_student_whose_home_is_mounted(image, home):
    port = free_port()
    where = {"user": f"{HUB_USER}:0", "mounts": {home: "/home/jovyan"}}
    healthy = image.config["Healthcheck"]["Test"][1:]
    assert image.run(*healthy, entry=False, **where).returncode == 1
    with started(image, "lab", f"--port={port}", JUPYTER_TOKEN="a-word", **where) as server:
        until = time.monotonic() + 300
        while image.run(*healthy, entry=False, **where).returncode:
            assert server.poll() is None and time.monotonic() < until, server.log()
            time.sleep(1)
        assert "<form" in page(f"http://127.0.0.1:{port}/login")
        listed = json.loads(page(f"http://127.0.0.1:{port}/api/contents?token=a-word"))
        setting = "lab/api/settings/@jupyterlab/apputils-extension:notification"
        asked = json.loads(page(f"http://127.0.0.1:{port}/{setting}?token=a-word"))["schema"]["properties"]
        assert asked["fetchNews"]["default"] == "false" and asked["checkForUpdates"]["default"] is False
        with pytest.raises(urllib.error.HTTPError):
            page(f"http://127.0.0.1:{port}/api/contents")
    names = {entry["name"] for entry in listed["content"]}
    assert names >= {path.name for path in (ROOT / "labs").glob("*.ipynb")}
    work = home / "ftlab-work"
    assert (work / "01_autoregression.ipynb").read_text() == "a student's work"
    assert (work / "02_transformer.ipynb").read_bytes() == (ROOT / "labs/02_transformer.ipynb").read_bytes()
    assert (work / "02_transformer.ipynb").stat().st_uid == HUB_USER
    assert image.run(*healthy, entry=False, **where).returncode == 1, "a stopped server is not healthy"


def test_a_home_of_someone_else_is_one_line(image, home):
    os.chmod(home, 0o755)
    done = image.run("lab", user="4321:4321", mounts={home: "/home/jovyan"})
    assert done.returncode == 2 and done.stderr.startswith("ftlab: /home/jovyan cannot be written to by user 4321")
    assert f"set the container's user to its owner, {HUB_USER}" in done.stderr


def test_a_terminal_finds_the_courses_programs(image):
    assert image.run("bash", "-lc", "command -v ftlab python").stdout.split() == ["/opt/venv/bin/ftlab", "/opt/venv/bin/python"]


def test_the_instructors_can_write_what_the_hub_mounts_for_all(image):
    assert image.run("stat", "-c", "%u %a", "/srv/course").stdout.split() == ["1000", "2775"]


def test_the_hubs_server_is_there(image):
    done = image.run("jupyterhub-singleuser", "--version")
    assert re.fullmatch(r"\d+\.\d+.*", done.stdout.strip().splitlines()[-1]), done.stderr


# ---- an instructor


def test_lab_01_runs_in_the_image(image):
    done = image.run("test", "01")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"\d+ passed", done.stdout)


def test_the_smoke_set_passes_in_the_image(image):
    mounts = {ROOT / "tests": "/opt/ftlab/tests"}
    command = ["sh", "-c", f"cd /opt/ftlab && exec python -m pytest -p no:cacheprovider {' '.join(SMOKE)}"]
    done = image.run(*command, mounts=mounts)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.fixture
def submissions(tmp_path):
    """A folder of the image's user with in/<student>/<lab>.ipynb: all of it done by ada, nothing by ben."""
    lab = "09_shootout"
    for student, folder in (("ada", "solutions"), ("ben", "labs")):
        (tmp_path / "class/in" / student).mkdir(parents=True)
        shutil.copy(ROOT / folder / f"{lab}.ipynb", tmp_path / "class/in" / student)
    for path in (tmp_path / "class", *(tmp_path / "class").rglob("*")):
        os.chown(path, 1000, 1000)
    return tmp_path / "class"


def test_where_no_namespace_can_be_made_nothing_is_graded_and_one_line_says_why(image, submissions):
    done = image.run("grade", "/class/in", "--out", "/class/out", mounts={submissions: "/class"})
    assert done.returncode == 2 and done.stderr.startswith("ftlab: no sandbox works here"), done.stderr
    assert done.stderr.count("\n") == 1 and "in a container: docker run --security-opt" in done.stderr
    assert not (submissions / "out/grades.csv").exists()


def test_two_submissions_are_graded_in_the_sandbox(image, submissions):
    if shutil.which("bwrap") is None:
        pytest.skip("no bubblewrap here to run the image behind: apt-get install bubblewrap")
    done = image.run_in_namespaces("grade", "/class/in", "--out", "/class/out", mounts={submissions: "/class"})
    assert done.returncode == 0, done.stderr
    rows = [line.split(",") for line in (submissions / "out/gradebook.csv").read_text().splitlines()]
    points = {row[0]: float(row[-1]) for row in rows[1:]}
    assert points["ada"] > 0 and points["ben"] == 0
    assert "unsafe" not in (submissions / "out/run.json").read_text()


# ---- what students may have


def test_the_students_image_holds_labs_and_no_solutions(builder):
    made = _built(builder, "student", ["LABS=01,04"])
    try:
        assert made.files("opt/ftlab/solutions/*") == made.files("opt/ftlab/ftlab/grade/*") == []
        labs = ["01_autoregression.ipynb", "04_instruction_tuning.ipynb"]
        assert sorted(made.files("opt/ftlab/labs/*")) == [f"opt/ftlab/labs/{name}" for name in labs]
        copied = made.run("sh", "-c", "ftlab lab --copy-only && ls ftlab-work")
        assert copied.stdout.split()[-2:] == labs, copied.stderr
        tested = made.run("test")
        assert tested.returncode == 2 and "holds no solutions" in tested.stderr
    finally:
        builder.buildah.run("rm", made.container)
