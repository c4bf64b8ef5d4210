"""The hub's configuration as shipped: each name is one that the real classes have, and Docker is asked for the walls."""

import json
import pathlib
import re
import subprocess

import pytest
import yaml
from hub.harness import PYTHON

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker" / "jupyterhub"

HOME = "/home/jovyan"  # the image's
needs_hub = pytest.mark.hub


@pytest.fixture
def settings(tmp_path):
    """A minimum that the configuration accepts."""
    password = tmp_path / "password"
    password.write_text("a password that is long\n")
    return {"STATE": tmp_path / "state", "ADMINS": "teacher, second", "ADMIN_PASSWORD_FILE": password}


LTI = {
    "AUTHENTICATOR": "lti13",
    "LTI_ISSUER": "https://lms.example.org",
    "LTI_CLIENT_ID": "ftlab",
    "LTI_AUTHORIZE_URL": "https://lms.example.org/auth",
    "LTI_JWKS_URL": "https://lms.example.org/jwks",
}
COURSES = {"COURSES": "winter=https://example.org/o/winter.git summer=https://example.org/o/summer.git#ss"}


@needs_hub
@pytest.mark.full
@pytest.mark.parametrize("spawner", ["docker", "local", "simple"])
@pytest.mark.parametrize("more", [{}, LTI | COURSES | {"GPUS": "all", "PROXY": "http://proxy:8001"}], ids=["plain", "more"])
def test_every_name_is_one_that_the_classes_have(read_config, settings, spawner, more, monkeypatch):
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "0" * 64)
    done = read_config(**settings, SPAWNER=spawner, **more)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["unknown"] == []
    assert {"JupyterHub", "Authenticator", "Spawner"} <= set(found["values"])
    assert found["values"]["Authenticator"]["admin_users"] in ("{'teacher', 'second'}", "{'second', 'teacher'}")


@needs_hub
@pytest.mark.full
def test_docker_is_asked_for_limits_a_gpu_and_separate_homes(read_config, settings):
    done = read_config(**settings, IMAGE="ftlab-student:2", MEMORY="3G", CPUS="1.5", GPUS="GPU-a,GPU-b", SHM="512M",
                       PROCESSES="300", STUDENT_ENV="FTLAB_PROFILE=gpu NAME='two words'")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)["containers"]
    student, neighbour, instructor = (found[who] for who in ("student", "next", "instructor"))
    assert student["Image"] == "ftlab-student:2"
    assert {"FTLAB_PROFILE=gpu", "NAME=two words"} <= set(student["Env"])
    host = student["HostConfig"]
    assert host["Memory"] == 3 * 2**30
    assert host["CpuQuota"] == 1.5 * host["CpuPeriod"]
    assert host["ShmSize"] == 512 * 2**20
    assert host["PidsLimit"] == 300
    assert host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges"]
    assert not host.get("Privileged")
    # One GPU each, in turn.
    devices = [one["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] for one in (student, neighbour, instructor)]
    assert devices == [["GPU-a"], ["GPU-b"], ["GPU-a"]]
    # A home each; the shared folder can be written by the instructor alone; Docker's socket is nowhere.
    assert sorted(host["Binds"]) == ["ftlab-assets:/srv/course:ro", f"ftlab-home-ada:{HOME}:rw"]
    assert "ftlab-assets:/srv/course:rw" in instructor["HostConfig"]["Binds"]
    homes = [bind for one in found.values() for bind in one["HostConfig"]["Binds"] if "home" in bind.split(":")[0]]
    assert len(set(homes)) == len(found)
    # A name that is no plain word cannot name another's volume, or a folder of the machine.
    assert all(re.fullmatch(rf"ftlab-home-[a-z0-9-]+:{HOME}:rw", home) for home in homes)


@needs_hub
@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SPAWNER", "kubernetes", "one of docker, local, simple"),
        ("CPUS", "many", "a number"),
        ("CPUS", "-1", "0 or more"),
        ("MEMORY", "4 GB", "such as 4G"),
        ("COURSES", "https://example.org/o/r.git", "NAME=https://"),
        ("COURSES", "a=ssh://example.org/o/r.git", "NAME=https://"),
        ("ADMIN_PASSWORD_FILE", "/nowhere", "No such file"),
        ("ADMIN_PASSWORD_FILE", "/dev/null", "is empty"),
        ("ADMIN_PASSWORD_FILE", "", "name the file"),
        ("STATE", "/dev/null/state", "cannot be made"),
        ("PROXY", "http://proxy:8001", "CONFIGPROXY_AUTH_TOKEN"),
        ("AUTHENTICATOR", "lti13", "learning platform"),
    ],
)
def test_a_bad_setting_ends_the_hub_with_one_line(read_config, settings, name, value, says, monkeypatch):
    monkeypatch.delenv("CONFIGPROXY_AUTH_TOKEN", raising=False)
    done = read_config(**settings | {name: value})
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("ftlab hub: FTLAB_HUB_") and says in line


@needs_hub
@pytest.mark.full
def test_lti_makes_the_platforms_instructors_admins(settings):
    """The hook alone, with the claims of the specification's example; the launch itself needs a platform."""
    import subprocess

    from hub.harness import PYTHON

    code = f"""
import json, os
os.environ.update({ {f"FTLAB_HUB_{name}": str(value) for name, value in (settings | LTI).items()} !r})
from traitlets.config.loader import PyFileConfigLoader
hook = PyFileConfigLoader({str(FOLDER / "jupyterhub_config.py")!r}).load_config().Authenticator.post_auth_hook
def admin(*roles):
    claims = {{"https://purl.imsglobal.org/spec/lti/claim/roles": list(roles)}}
    return hook(None, None, {{"name": "x", "auth_state": claims}}).get("admin")
membership = "http://purl.imsglobal.org/vocab/lis/v2/membership#"
print(json.dumps([admin(membership + "Instructor"), admin(membership + "Learner"), admin(),
    admin("http://purl.imsglobal.org/vocab/lis/v2/institution/person#Instructor"), hook(None, None, None)]))
"""
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [True, None, None, None, None]


def test_the_readme_lists_every_setting():
    source = (FOLDER / "jupyterhub_config.py").read_text(encoding="utf-8")
    used = set(re.findall(r'\b(?:setting|choice|number|size|names|needed)\("([A-Z_]+)"', source))
    assert len(used) > 20
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`FTLAB_HUB_([A-Z_]+)`", text))
    assert used - listed == set(), "used, but not in README.md"
    assert listed - used - {"LISTEN"} == set(), "in README.md, but not used"  # LISTEN is compose.yml's


@pytest.mark.parametrize("page", ["docs/administrator.md", "docker/jupyterhub/README.md", "docker/kubernetes/README.md"])
def test_the_pages_name_settings_files_and_targets_that_exist(page):
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    listed = set(re.findall(r"`FTLAB_HUB_([A-Z_]+)`", (FOLDER / "README.md").read_text(encoding="utf-8")))
    assert set(re.findall(r"FTLAB_HUB_([A-Z_]+)", text)) <= listed
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in re.findall(r"`make ([a-z-]+)`", text))


def test_compose_names_what_the_configuration_reads():
    compose = yaml.safe_load((FOLDER / "compose.yml").read_text(encoding="utf-8"))
    hub, proxy = compose["services"]["hub"], compose["services"]["proxy"]
    assert hub["environment"]["FTLAB_HUB_NETWORK"] == compose["networks"]["hub"]["name"]
    source = (FOLDER / "jupyterhub_config.py").read_text(encoding="utf-8")
    for name in hub["environment"]:
        assert name == "CONFIGPROXY_AUTH_TOKEN" or f'"{name.removeprefix("FTLAB_HUB_")}"' in source
    # Docker's socket is the hub's alone.
    assert any("docker.sock" in volume for volume in hub["volumes"])
    assert "volumes" not in proxy
    assert (ROOT / hub["build"]["dockerfile"]).is_file()
    assert proxy["environment"]["CONFIGPROXY_AUTH_TOKEN"].startswith("${CONFIGPROXY_AUTH_TOKEN:?")


@needs_hub
@pytest.mark.full
def test_the_hubs_packages_hold_the_drivers_of_the_databases_that_are_promised():
    code = "import sqlalchemy, sys; print(*(sqlalchemy.create_engine(address).driver for address in sys.argv[1:]))"
    done = subprocess.run([PYTHON, "-c", code, "sqlite://", "postgresql://hub@db/hub"], capture_output=True, text=True)
    assert done.stdout.split() == ["pysqlite", "psycopg"], done.stderr


def test_what_a_site_keeps_secret_is_nothing_that_git_takes():
    files = ["docker/jupyterhub/.env", "docker/jupyterhub/admin_password", "admin-password", "my-site.yaml", "gateway.yaml"]
    done = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("no git repository here")
    assert done.stdout.split() == files


def test_the_hub_and_the_students_agree_on_jupyterhub():
    """The lock of the students' image, where it names jupyterhub, and the hub's: one version."""
    pins = re.findall(r"^jupyterhub==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    (own,) = re.findall(r"^jupyterhub==(\S+)$", (FOLDER / "requirements.txt").read_text(encoding="utf-8"), re.M)
    assert pins in ([], [own])


def test_the_hubs_pins_are_exact_and_agree_with_the_lock():
    def pins(path):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
        return {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}

    lock = pins(ROOT / "constraints.txt")
    for path in (FOLDER / "requirements.txt", pathlib.Path(__file__).with_name("requirements.txt")):
        for name, version in pins(path).items():
            assert lock.get(name, version) == version, f"{path.name} and constraints.txt differ in {name}"
    package = json.loads((FOLDER / "package.json").read_text(encoding="utf-8"))
    locked = json.loads((FOLDER / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    for name, version in package["dependencies"].items():
        assert locked[f"node_modules/{name}"]["version"] == version
