"""JupyterHub for a course: each student a server of their own, with limits, and a home that outlives it.

What an administrator decides comes from environment variables, FTLAB_HUB_*; README.md beside this file lists them all.
A bad one ends the hub with a line that says so. The servers run as containers (FTLAB_HUB_SPAWNER=docker), as processes
of the students' own system users (local; the hub is root), or, to try things out, as processes of the hub's user in
separate folders, with no wall between them (simple). `make test-hub` drives this same file.
"""

import os
import pathlib
import re
import shlex
import sys
import urllib.parse

c = get_config()  # noqa: F821 (traitlets puts it here)


# ---- reading the settings


def setting(name, default=""):
    """The text of FTLAB_HUB_<name>, or `default`."""
    return os.environ.get(f"FTLAB_HUB_{name}", "").strip() or default


def refuse(name, what):
    """End the hub with one line about the setting `name`."""
    sys.exit(f"ftlab hub: FTLAB_HUB_{name}={setting(name)!r}: {what}")


def choice(name, *allowed):
    """A setting that is one of a few words; the first is the default."""
    value = setting(name, allowed[0])
    return value if value in allowed else refuse(name, f"one of {', '.join(allowed)}")


def number(name, default, kind=float):
    """A setting that is a number, 0 or more."""
    try:
        value = kind(setting(name, str(default)))
    except ValueError:
        refuse(name, "a number, please")
    return value if value >= 0 else refuse(name, "0 or more, please")


def size(name, default):
    """A setting that is an amount of memory in bytes, such as 4G or 512M, as text."""
    value = setting(name, default)
    return value if re.fullmatch(r"\d+[KMGT]", value) else refuse(name, "such as 4G or 512M")


def names(name):
    """A setting that is a list: words with commas or spaces between."""
    return [word for word in re.split(r"[,\s]+", setting(name)) if word]


def needed(name, what):
    """A setting that has no default."""
    return setting(name) or refuse(name, what)


def courses():
    """{name: (address, branch)} of FTLAB_HUB_COURSES="name=https://...git#branch name=..."."""
    found = {}
    for entry in setting("COURSES").split():
        name, equals, address = entry.partition("=")
        address, _, branch = address.partition("#")
        if not (equals and re.fullmatch(r"[\w.-]+", name) and re.match(r"https?://", address)):
            refuse("COURSES", "NAME=https://host/owner/repository.git#BRANCH, with spaces between several")
        found[name] = (address, branch or "main")
    return found


# ---- the hub itself: its state lies in one folder, which is what to back up

state = pathlib.Path(setting("STATE", "/srv/ftlab-hub")).resolve()
try:
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
except OSError as error:
    refuse("STATE", f"{state} cannot be made ({error.strerror})")

c.JupyterHub.cookie_secret_file = str(state / "cookie_secret")
c.JupyterHub.db_url = setting("DATABASE", f"sqlite:///{state}/jupyterhub.sqlite")
c.JupyterHub.bind_url = setting("URL", "http://:8000")
# A hub that is stopped, upgraded and started again finds the students' servers where they were.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.concurrent_spawn_limit = number("STARTING", 20, int)  # a class comes at the same minute
c.JupyterHub.active_server_limit = number("ACTIVE", 0, int)  # 0: as many as come
if setting("PROXY"):
    # A proxy that was started apart goes on while the hub restarts: nobody at work notices.
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = setting("PROXY")
    if not os.environ.get("CONFIGPROXY_AUTH_TOKEN"):
        refuse("PROXY", "needs CONFIGPROXY_AUTH_TOKEN, the same as the proxy's")


# ---- who comes in

admins = set(names("ADMINS"))
c.Authenticator.admin_users = admins  # the instructors: they admit students, and may open their servers


def native():
    """Sign up with a password of one's own; an instructor admits each student, once."""
    if admins:
        needed("ADMIN_PASSWORD_FILE", "name the file with the password that an instructor signs up with")
    load_subconfig("native.py", str(pathlib.Path(__file__).resolve().parent))  # noqa: F821 (traitlets puts it here)


INSTRUCTOR_ROLES = ("#Instructor", "#Administrator")  # the ends of LTI's names of roles


def lti13():
    """Come from the learning platform, by LTI 1.3; its instructors are the hub's."""
    why = "the learning platform tells it when you register the hub as a tool (see README.md)"
    c.JupyterHub.authenticator_class = "ltiauthenticator.lti13.auth.LTI13Authenticator"
    c.Authenticator.allow_all = True  # whom the platform sends
    c.LTI13Authenticator.issuer = needed("LTI_ISSUER", why)
    c.LTI13Authenticator.client_id = set(names("LTI_CLIENT_ID")) or needed("LTI_CLIENT_ID", why)
    c.LTI13Authenticator.authorize_url = needed("LTI_AUTHORIZE_URL", why)
    c.LTI13Authenticator.jwks_endpoint = needed("LTI_JWKS_URL", why)
    # `sub` is the platform's own number for a person: no address, no name is stored here.
    c.LTI13Authenticator.username_key = setting("LTI_USERNAME", "sub")
    c.LTI13Authenticator.uri_scheme = "https"
    c.Authenticator.post_auth_hook = instructors_are_admins


def instructors_are_admins(authenticator, handler, model):
    """Make the platform's instructors admins; leave others as FTLAB_HUB_ADMINS says."""
    claims = (model or {}).get("auth_state") or {}
    roles = claims.get("https://purl.imsglobal.org/spec/lti/claim/roles") or []
    if any(role.endswith(INSTRUCTOR_ROLES) and "/membership#" in role for role in roles):
        model["admin"] = True
    return model


{"native": native, "lti13": lti13}[choice("AUTHENTICATOR", "native", "lti13")]()


# ---- what a student gets

memory = size("MEMORY", "4G")
cpus = number("CPUS", 2)
c.Spawner.start_timeout = 300
c.Spawner.http_timeout = 300
c.Spawner.default_url = "/lab/tree/ftlab-work"  # where the image puts the student's copies of the labs
c.Spawner.mem_limit = memory
c.Spawner.cpu_limit = cpus
c.JupyterHub.allow_named_servers = False
c.Spawner.environment = dict(pair.partition("=")[::2] for pair in shlex.split(setting("STUDENT_ENV")))


def docker():
    """Each server a container with limits; the home a volume named after the student."""
    from docker.types import DeviceRequest

    image, network = setting("IMAGE", "ftlab-student"), setting("NETWORK", "ftlab-hub")
    gpus, shared_memory = names("GPUS"), size("SHM", "1G")
    assets = setting("ASSETS", "ftlab-assets")

    def host_config(spawner):
        """What Docker is asked for beside memory and CPUs. Of several GPUs a student keeps one, by the hub's number for him."""
        config = {
            "shm_size": shared_memory,
            "pids_limit": number("PROCESSES", 512, int),
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
        }
        if gpus == ["all"]:
            config["device_requests"] = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
        elif gpus:
            mine = gpus[spawner.user.id % len(gpus)]
            config["device_requests"] = [DeviceRequest(device_ids=[mine], capabilities=[["gpu"]])]
        return config

    def mount_assets(spawner):
        """/srv/course: what the instructors put there, students can read."""
        volume = {assets: "/srv/course"}
        spawner.read_only_volumes, writable = ({}, volume) if spawner.user.admin else (volume, {})
        spawner.volumes = {"ftlab-home-{username}": "/home/jovyan"} | writable

    c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
    c.JupyterHub.hub_ip = "0.0.0.0"  # the students' containers reach it, over the network that they share
    c.JupyterHub.hub_connect_ip = setting("HOST", "hub")
    c.DockerSpawner.image = image
    c.DockerSpawner.pull_policy = "ifnotpresent"
    c.DockerSpawner.network_name = network
    c.DockerSpawner.use_internal_ip = True
    c.DockerSpawner.remove = True  # the container goes, the home stays
    c.DockerSpawner.prefix = "ftlab"
    c.DockerSpawner.mem_limit = memory
    c.DockerSpawner.cpu_limit = cpus
    c.DockerSpawner.extra_host_config = host_config
    c.DockerSpawner.pre_spawn_hook = mount_assets


def processes():
    """Each server a process: the labs are copied to where they are missing, then the server starts."""
    path = setting("PYTHON", sys.executable)
    python, programs = shlex.quote(path), shlex.quote(os.path.dirname(path))
    # A cell's `!ftlab doctor` finds the labs' programs before the hub's.
    start = f'export PATH={programs}:"$PATH"; cd "$HOME" && {python} -m ftlab lab --copy-only; '
    start += f'exec {python} -m jupyterhub.singleuser "$@"'
    c.Spawner.cmd = ["sh", "-c", start, "server"]
    c.Spawner.env_keep = ["PATH", "PYTHONPATH", "JUPYTER_CONFIG_PATH", "LANG", "LC_ALL"]


def local():
    """Processes of system users who have the students' names, each in that user's own home."""
    processes()
    c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
    c.Spawner.pre_spawn_hook = people_only


def people_only(spawner):
    """Refuse names such as root and daemon: whoever signs up as one would get that user's power."""
    import pwd

    try:
        person = pwd.getpwnam(spawner.user.name).pw_uid >= 1000
    except KeyError:
        raise ValueError(f"there is no system user {spawner.user.name}: useradd --create-home {spawner.user.name}") from None
    if not person:
        raise ValueError(f"{spawner.user.name} is one of the system's own users")


def simple():
    """Processes of the hub's own user, each with a folder of its own as home."""
    processes()
    c.JupyterHub.spawner_class = "jupyterhub.spawner.SimpleLocalProcessSpawner"
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        c.Spawner.args = ["--allow-root"]  # a container's only user is often root
    c.SimpleLocalProcessSpawner.home_dir_template = setting("HOMES", str(state / "homes")) + "/{username}"


spawner = choice("SPAWNER", "docker", "local", "simple")
{"docker": docker, "local": local, "simple": simple}[spawner]()


# ---- the courses: links that bring a repository's files (nbgitpuller), and keep each line that the student changed


def pull_path(name, address, branch):
    """The path, below a student's server, that brings the course `name` up to date and opens its labs."""
    query = {"repo": address, "branch": branch, "targetPath": name, "urlpath": f"lab/tree/{name}/labs"}
    return "/git-pull?" + urllib.parse.urlencode(query)


found = courses()
if found:
    # user-redirect is whoever clicks: the same link for all. An instructor puts it into the syllabus.
    base = urllib.parse.urlsplit(c.JupyterHub.bind_url).path.rstrip("/")
    links = [
        f'<a href="{base}/hub/user-redirect{pull_path(name, *where).replace("&", "&amp;")}">{name}</a>'
        for name, where in found.items()
    ]
    c.JupyterHub.template_vars = {"announcement_home": "Courses: " + " · ".join(links)}
if len(found) == 1:
    ((name, where),) = found.items()
    c.Spawner.default_url = pull_path(name, *where)


# ---- what nobody uses is stopped; the work is saved, and the server comes back at the next click

idle = number("IDLE_SECONDS", 3600, int)
if idle:
    every = max(1, min(300, idle // 2))
    c.JupyterHub.load_roles = [
        {
            "name": "culler",
            "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
            "services": ["culler"],
        }
    ]
    # What a hub knows when it starts is as old as its absence: the culler waits until it has heard of each server's use since.
    wait = "import runpy, sys, time; time.sleep(float(sys.argv.pop(1))); "
    wait += "runpy.run_module('jupyterhub_idle_culler', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", wait, str(2 * every), f"--timeout={idle}", f"--cull-every={every}"]
    c.JupyterHub.services = [{"name": "culler", "command": command}]
    # The hub learns of a server's last use from the server itself, and from the proxy.
    c.JupyterHub.last_activity_interval = every
    c.Spawner.environment["JUPYTERHUB_ACTIVITY_INTERVAL"] = str(every)
