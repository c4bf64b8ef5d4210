"""What the image is made of, looked at without building it: the Dockerfile, its entry point, compose.yml, the devcontainer."""

import contextlib
import functools
import http.server
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
INSTRUCTIONS = set("FROM ARG ENV RUN COPY USER WORKDIR EXPOSE HEALTHCHECK ENTRYPOINT CMD".split())


def instructions(path=DOCKER / "Dockerfile"):
    """[(instruction, arguments)] of a Dockerfile, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


@functools.cache
def patterns():
    """[(pattern, whether it ignores)] of .dockerignore, in order."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    pieces = [re.split(r"(\*\*/|\*)", line.removeprefix("!")) for line in lines]
    texts = ["".join({"**/": "(?:.*/)?", "*": "[^/]*"}.get(piece, re.escape(piece)) for piece in line) for line in pieces]
    return [(re.compile(text), not line.startswith("!")) for text, line in zip(texts, lines, strict=True)]


def ignored(path):
    """Whether .dockerignore keeps `path` from the builder: of the patterns that match it or a folder above, the last says."""
    path, found = pathlib.PurePosixPath(path), False
    names = [str(name) for name in (path, *path.parents[:-1])]
    for pattern, ignores in patterns():
        if any(map(pattern.fullmatch, names)):
            found = ignores
    return found


def copied():
    """The paths that the Dockerfiles take from the repository by COPY."""
    lines = [arguments.split() for path in DOCKER.rglob("Dockerfile") for name, arguments in instructions(path)
             if name == "COPY" and "--from=" not in arguments]  # fmt: skip
    return [source for line in lines for source in line[:-1]]


def test_the_dockerfile_is_made_of_known_instructions_and_stages():
    found = instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    stages = [arguments.split() for name, arguments in found if name == "FROM"]
    assert stages[0] == ["${BASE_IMAGE}", "AS", "environment"] and found[0][0] == "ARG"
    named = [words[2] for words in stages if len(words) == 3]
    assert named == ["environment", "course", "release", "student"]
    assert stages[-1] == ["course"], "where no target is named the whole course is built"
    for words in stages[1:]:
        assert words[0] in named


def test_what_is_copied_is_there_and_reaches_the_builder():
    assert len(copied()) > 10
    assert [path for path in copied() if not (ROOT / path).exists()] == []
    assert [path for path in copied() if ignored(path)] == []


def test_the_builder_gets_all_of_the_course_and_nothing_else():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = done.stdout.splitlines()
    within = [path for path in files if any(path == top or path.startswith(f"{top}/") for top in copied())]
    assert len(within) > 100 and [path for path in within if ignored(path)] == []
    assert [path for path in files if path not in within and not ignored(path)] == []
    assert all(map(ignored, [".git/config", ".venv/bin/python", "build/image/x", "ftlab/__pycache__/cli.pyc", "ftlab-work/a"]))


def test_versions_are_the_locks():
    text = (DOCKER / "Dockerfile").read_text()
    assert re.findall(r"torch==[\w.]+", text) == [f"torch=={PINS['torch']}"]
    hub = next(arguments for name, arguments in instructions() if name == "ARG" and arguments.startswith("HUB="))
    assert set(hub.removeprefix("HUB=").strip('"').split()) <= set(PINS), "what the hub needs is pinned too"
    installs = re.findall(r"pip install [^;&]*", text)
    assert installs and all("constraints.txt" in line or "--no-deps" in line for line in installs)


def test_the_hub_and_its_servers_are_of_one_version():
    lock = DOCKER / "jupyterhub" / "requirements.txt"
    if not lock.exists():
        pytest.skip("no hub's lock here")
    hub = dict(line.split("==") for line in lock.read_text().splitlines() if "==" in line)
    assert {name: version for name, version in hub.items() if PINS.get(name, version) != version} == {}
    assert "jupyterhub" in hub and "jupyterhub" in PINS


def test_the_student_is_no_root_and_root_comes_only_to_be_given_up():
    last, users = {}, {}
    for name, arguments in instructions():
        last[name] = arguments
        users[last.get("FROM")] = last.get("USER")
    assert users["environment AS course"] == users["environment AS student"] == "$NB_UID"
    assert last["ENTRYPOINT"] == '["tini", "-g", "--", "sh", "/opt/image/entrypoint.sh"]' and last["CMD"] == '["lab"]'
    assert "healthcheck.py" in last["HEALTHCHECK"]


# ---- the entry point


@pytest.fixture
def enter(tmp_path):
    """Run the entry point among stand-ins that say how they were called; `ftlab` is the real one."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("jupyterhub-singleuser", "setpriv", "python"):
        _program(programs / name, f'echo "{name}: $*"; echo "in $PWD, home $HOME, lax ${{FTLAB_HEADLESS:-}}"')
    _program(programs / "id", '[ "$1" = -u ] && echo "${FAKE_UID:-1234}"')
    _program(programs / "ftlab", f'exec "{sys.executable}" -m ftlab "$@"')
    home = tmp_path / "home"
    home.mkdir()

    def run(*arguments, **environment):
        surroundings = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(ROOT),
                        "FTLAB_COURSE": str(ROOT)} | environment  # fmt: skip
        return subprocess.run(["sh", DOCKER / "entrypoint.sh", *arguments], env=surroundings, capture_output=True, text=True,
                              cwd=tmp_path)  # fmt: skip

    run.home = home
    return run


def _program(path, body):
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("script", ["entrypoint.sh", "slim.sh"])
def test_the_scripts_are_posix_shell(script):
    for shell in filter(shutil.which, ("sh", "dash", "bash")):
        done = subprocess.run([shell, "-n", DOCKER / script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_lab_is_the_default_and_copies_without_overwriting(enter):
    done = enter()
    work = enter.home / "ftlab-work"
    assert done.returncode == 0, done.stderr
    assert f"python: -m jupyterlab --no-browser --ip=0.0.0.0 --ServerApp.root_dir={work}" in done.stdout
    notebooks = sorted(path.name for path in work.glob("*.ipynb"))
    assert notebooks == sorted(path.name for path in (ROOT / "labs").glob("*.ipynb"))
    (work / "01_autoregression.ipynb").write_text("my work")
    (work / "02_transformer.ipynb").unlink()
    again = enter("lab", "--port=9999")
    assert again.returncode == 0 and "--port=9999" in again.stdout and "--allow-root" not in again.stdout
    assert (work / "01_autoregression.ipynb").read_text() == "my work"
    assert (work / "02_transformer.ipynb").exists()


def test_behind_a_hub_its_server_starts(enter):
    for arguments, environment in (((), {"JUPYTERHUB_API_TOKEN": "t"}), (("jupyterhub-singleuser",), {})):
        done = enter(*arguments, **environment)
        assert done.returncode == 0 and "jupyterhub-singleuser:" in done.stdout
        assert f"in {enter.home}," in done.stdout
        assert (enter.home / "ftlab-work/01_autoregression.ipynb").exists()


def test_a_home_that_cannot_be_written_stops_the_server_in_one_line(enter):
    for command in ("lab", "jupyterhub-singleuser"):
        done = enter(command, HOME=str(enter.home / "none"))
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and "cannot be written to by user 1234: mount a folder" in done.stderr


def test_what_keeps_nothing_at_home_gets_a_home(enter):
    done = enter("sh", "-c", "echo $HOME; touch $HOME/x", HOME=str(enter.home / "none"))
    assert done.returncode == 0, done.stderr
    shutil.rmtree(done.stdout.strip())


def test_labs_that_cannot_be_copied_do_not_keep_the_server_from_starting(enter):
    (enter.home / "ftlab-work").write_text("a file in the place of the folder")
    done = enter("lab")
    assert done.returncode == 0 and f"root_dir={enter.home}" in done.stdout.replace(f"{enter.home}/ftlab-work", "")
    assert "is a file" in done.stderr and "the server starts all the same" in done.stderr
    assert (enter.home / "ftlab-work").read_text() == "a file in the place of the folder"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NB_UID": "4711", "NB_GID": "100"}, "--reuid 4711 --regid 100 --clear-groups sh"),
        ({}, "--reuid 1000 --regid 1000 --clear-groups sh"),
        ({"NB_UID": "5"}, "--reuid 5 --regid 5 --clear-groups sh"),
    ],
)
def test_root_becomes_the_user_that_a_hub_sets(enter, environment, expected):
    done = enter("lab", "--x", FAKE_UID="0", **environment)
    assert done.returncode == 0 and f"setpriv: {expected}" in done.stdout and "lab --x" in done.stdout
    assert not (enter.home / "ftlab-work").exists(), "root copies nothing"


def test_root_stays_root_only_when_asked(enter):
    done = enter("lab", FAKE_UID="0", NB_UID="0")
    assert "setpriv" not in done.stdout and "--allow-root" in done.stdout


def test_who_grades_as_root_is_told_whose_the_folders_have_to_be(enter):
    said = enter("grade", "in", "--out", "out", FAKE_UID="0", NB_UID="4711").stderr
    assert said.count("\n") == 1 and "grading as user 4711" in said and "NB_UID=0" in said
    assert "started as root" not in enter("grade", "in", "--out", "out", FAKE_UID="0", NB_UID="0").stderr
    assert "started as root" not in enter("grade", "in", "--out", "out").stderr


@pytest.mark.parametrize("uid", ["jovyan", "12x", "-1"])
def test_a_user_that_is_no_number_is_one_line(enter, uid):
    done = enter("lab", FAKE_UID="0", NB_UID=uid)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "must be numbers" in done.stderr


def test_test_runs_nbval_over_the_named_solutions(enter):
    done = enter("test", "01", "04_instruction_tuning")
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()[0].split()
    named = [pathlib.Path(word).name for word in words if word.endswith(".ipynb")]
    assert named == ["01_autoregression.ipynb", "04_instruction_tuning.ipynb"]
    assert "nbval_ftlab" in words and "--nbval" in words
    everything = [word for word in enter("test").stdout.split() if word.endswith(".ipynb")]
    assert len(everything) == len(list((ROOT / "solutions").glob("*.ipynb")))
    assert "--nbval-lax" in enter("test", FTLAB_PROFILE="gpu").stdout.split()


def test_test_names_what_it_cannot_run(enter, tmp_path):
    unknown, none = enter("test", "77"), enter("test", FTLAB_COURSE=str(tmp_path))
    assert unknown.returncode == none.returncode == 2
    assert "no lab 77" in unknown.stderr and "01_autoregression" in unknown.stderr and unknown.stderr.count("\n") == 1
    assert "holds no solutions" in none.stderr and none.stderr.count("\n") == 1


def test_grade_grades_and_anything_else_is_executed(enter):
    graded = enter("grade", "nowhere", "--out", "out")
    assert graded.returncode == 2 and graded.stderr.startswith("ftlab: ") and "nowhere" in graded.stderr
    assert enter("echo", "a  b").stdout == "a  b\n"
    assert enter("sh", "-c", "exit 7").returncode == 7


# ---- the health check


class _Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"version": "2"}' if self.path == "/user/ada/api" else b"{}"
        self.send_response(200 if self.path == "/user/ada/api" else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def health(folder):
    # A proxy that is not there: the check must not ask it.
    environment = dict(os.environ, JUPYTER_RUNTIME_DIR=str(folder), http_proxy="http://127.0.0.1:9")
    return subprocess.run([sys.executable, DOCKER / "healthcheck.py"], env=environment, capture_output=True, text=True)


def test_the_health_check_asks_the_server_at_its_own_address(tmp_path):
    none = health(tmp_path)
    assert none.returncode == 1 and none.stdout.count("\n") == 1 and "no server" in none.stdout
    with served() as port:
        (tmp_path / "jpserver-1.json").write_text("{")  # of a server that was killed while it wrote
        (tmp_path / "jpserver-2.json").write_text(json.dumps({"port": port, "base_url": "/user/ada/"}))
        assert health(tmp_path).returncode == 0
        (tmp_path / "jpserver-2.json").write_text(json.dumps({"port": port, "base_url": "/"}))
        assert health(tmp_path).returncode == 1
    stopped = health(tmp_path)
    assert stopped.returncode == 1 and stopped.stdout.count("\n") == 1 and stopped.stderr == ""


# ---- compose.yml and the devcontainer


def test_compose_reserves_a_gpu_and_has_a_service_without():
    compose = yaml.safe_load((DOCKER / "compose.yml").read_text())
    services = compose["services"]
    (device,) = services["lab"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in services["lab-cpu"]
    assert (services["lab"]["profiles"], services["lab-cpu"]["profiles"]) == (["gpu"], ["cpu"])
    arguments = {line.split("=")[0] for name, line in instructions() if name == "ARG"}
    stages = {line.split()[-1] for name, line in instructions() if name == "FROM"}
    for service in services.values():
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).samefile(DOCKER / "Dockerfile")
        assert build["target"] in stages and set(build.get("args", ())) <= arguments
        volumes = {volume.split(":")[0] for volume in service["volumes"]}
        assert all(name in compose["volumes"] or name.startswith("${") for name in volumes)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), "the labs are not the network's"


def test_the_devcontainer_is_built_from_the_same_file():
    folder = ROOT / ".devcontainer"
    container = json.loads((folder / "devcontainer.json").read_text())
    build = container["build"]
    assert (folder / build["dockerfile"]).samefile(DOCKER / "Dockerfile") and (folder / build["context"]).samefile(ROOT)
    assert build["target"] == "course"
    assert set(build["args"]) <= {line.split("=")[0] for name, line in instructions() if name == "ARG"}
    assert container["remoteUser"] == "jovyan" and container["hostRequirements"]["gpu"] == "optional"
    assert {"ms-python.python", "ms-toolsai.jupyter"} <= set(container["customizations"]["vscode"]["extensions"])
    python = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python.startswith(dict(line.split("=", 1) for line in
                                  next(a for n, a in instructions() if n == "ENV").split())["VIRTUAL_ENV"])  # fmt: skip


# ---- the build with buildah


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("ftlab_image_build", DOCKER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_build_fetches_as_this_machine_does_and_by_secrets_only(builder, tmp_path, monkeypatch):
    wheels, index = tmp_path / "wheels", tmp_path / "simple"
    wheels.mkdir(), index.mkdir()
    (wheels / "torch-2.13.0-py3-none-any.whl").write_text("a wheel")
    settings = {"index-url": "https://pypi.example.org/simple", "extra-index-url": f"file://{index}",
                "find-links": str(wheels), "cert": "/etc/ca.pem", "constraint": "/etc/limits.txt"}  # fmt: skip
    monkeypatch.setattr(builder, "pip_settings", lambda: settings)
    with builder.secrets(tmp_path, "bookworm", "http://deb.example.org/debian") as arguments:
        given = dict(pair.removeprefix("id=").split(",src=") for pair in arguments[1::2])
        assert set(arguments[::2]) == {"--secret"} and set(given) == {"ca", "pip", "apt"}
        pip = pathlib.Path(given["pip"]).read_text()
        assert "index-url = https://pypi.example.org/simple" in pip and "cert = /run/secrets/ca" in pip
        assert "limits.txt" not in pip and str(index) not in pip
        address = re.search(r"find-links = (http://127\.0\.0\.1:\d+/)", pip)[1]
        page = subprocess.run([sys.executable, "-c", "import sys, urllib.request as u;"
                               "print(u.build_opener(u.ProxyHandler({})).open(sys.argv[1]).read().decode())", address],
                              capture_output=True, text=True, check=True)  # fmt: skip
        assert "torch-2.13.0-py3-none-any.whl" in page.stdout
        apt = pathlib.Path(given["apt"]).read_text()
        assert "deb http://deb.example.org/debian bookworm main" in apt
        assert "deb http://deb.example.org/debian-security bookworm-security main" in apt
    assert not pathlib.Path(given["pip"]).exists()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("sources.list", "# deb http://no.example.org x\ndeb [arch=amd64] http://a.example.org/debian/ bookworm main\n", "a"),
        ("sources.list.d/debian.sources",
         "Types: deb\n# an old one\nURIs: http://b.example.org/debian\nSuites: bookworm bookworm-updates\n\n"
         "Types: deb\nURIs: http://c.example.org/debian\nSuites: trixie\n", "b"),
        ("sources.list.d/other.list", "deb http://d.example.org/ubuntu noble main\n", None),
    ],
)  # fmt: skip
def test_debians_packages_come_from_where_the_machine_has_them(builder, tmp_path, name, text, expected):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / name).write_text(text)
    found = builder.machine_mirror("bookworm", tmp_path)
    assert found == (f"http://{expected}.example.org/debian" if expected else builder.MIRROR)


def test_the_base_keeps_nothing_of_this_machine(builder, tmp_path):
    for name in ("etc/dpkg/dpkg.cfg.d", "etc/apt", "var/lib/apt/lists/partial", "usr/share/doc/bash", "var/log"):
        (tmp_path / name).mkdir(parents=True)
    for name, text in {"etc/resolv.conf": "nameserver 192.0.2.1", "etc/hostname": "here", "usr/share/doc/bash/README": "x",
                       "etc/apt/sources.list": "deb http://deb.example.org/debian bookworm main"}.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    builder._tidy_base(tmp_path, "bookworm")
    assert (tmp_path / "etc/resolv.conf").read_text() == (tmp_path / "etc/hostname").read_text() == ""
    assert "example" not in (tmp_path / "etc/apt/sources.list").read_text()
    assert not (tmp_path / "usr/share/doc/bash").exists() and not (tmp_path / "var/lib/apt/lists/partial").exists()


def test_without_buildah_there_is_one_line(tmp_path):
    environment = dict(os.environ, PATH=str(tmp_path))
    done = subprocess.run([sys.executable, DOCKER / "build.py", "--folder", tmp_path / "x"], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "ftlab: buildah is not installed: apt-get install buildah debootstrap\n"
