"""Build the image with buildah: no Docker engine, no daemon, and no registry where none can be reached.

    python docker/build.py --target course --tag ftlab

The base image is pulled; where that fails, debootstrap makes one from Debian's packages. Where this machine fetches pip's
and Debian's packages from is passed into the build as secrets, which are in no layer. Everything that is written lies
below --folder, which is also where the layers are kept for the next build.

Left out: machines without root (buildah can do it, in a user namespace of its own), other systems than Debian's kin.
"""

import argparse
import configparser
import contextlib
import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "image"
REGISTRY_BASE = "docker.io/library/debian:{suite}-slim"
MADE_BASE = "localhost/ftlab-base:{suite}"
SUITE = "bookworm"  # Debian 12: its Python, 3.11, is the one that the lock was tested with
MIRROR = "http://deb.debian.org/debian"
# Of pip's settings those that say where packages come from; folders among them are served on loopback.
PLACES = ("index-url", "extra-index-url", "find-links")
CONNECTION = (*PLACES, "trusted-host", "proxy", "timeout", "default-timeout", "retries")
# What Debian's own slim images leave out, too.
UNREAD = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/groff")
PULL_SECONDS = 120


class Failed(Exception):
    """One line: what cannot be done here, and what to do."""


class Buildah:
    """buildah with its storage below `folder`; by overlay where the system lets us, else by whole copies (vfs)."""

    def __init__(self, folder, driver=None):
        self.folder = pathlib.Path(folder).resolve()
        if shutil.which("buildah") is None:
            raise Failed("buildah is not installed: apt-get install buildah debootstrap")
        if os.geteuid() != 0:
            raise Failed("building with buildah needs root here: sudo make test-image")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.driver = driver or ("overlay" if _overlay_works(self.folder) else "vfs")
        self._storage = self.folder / self.driver
        self._command = ["buildah", f"--storage-driver={self.driver}", "--root", str(self._storage),
                         "--runroot", f"{self._storage}-run"]  # fmt: skip

    def command(self, *arguments):
        """The command line of buildah with `arguments`."""
        return [*self._command, *map(str, arguments)]

    def run(self, *arguments, capture=True, **options):
        """Run buildah; its standard output without the last newline. Failed, with its last line, when it fails."""
        environment = dict(os.environ, TMPDIR=str(self.folder))
        done = subprocess.run(self.command(*arguments), stdout=subprocess.PIPE if capture else None, text=True,
                              stderr=subprocess.PIPE if capture else subprocess.STDOUT, env=environment, **options)  # fmt: skip
        if done.returncode:
            last = (done.stderr or "see above").strip().splitlines()[-1:]
            raise Failed(f"buildah {arguments[0]} ended with status {done.returncode}: {''.join(last)}")
        return (done.stdout or "").strip()

    def has(self, image):
        return subprocess.run(self.command("inspect", "--type", "image", image), capture_output=True).returncode == 0

    def config(self, image):
        """The image's configuration: Env, Entrypoint, Cmd, Healthcheck, User, WorkingDir, ..."""
        return json.loads(self.run("inspect", "--type", "image", image))["Docker"]["config"]

    def size(self, image):
        """Bytes on disk of the image's files, unpacked."""
        name = self.run("from", "--pull-never", image)
        try:
            counted = subprocess.run(["du", "-s", "--block-size=1", self.run("mount", name)], check=True, text=True,
                                     capture_output=True)  # fmt: skip
        finally:
            self.run("rm", name)
        return int(counted.stdout.split()[0])

    def release(self):
        """Undo the mount of itself that the overlay driver leaves behind: the folder could not be removed with it."""
        subprocess.run(["umount", str(self._storage / "overlay")], capture_output=True)


def _overlay_works(folder):
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for name in "lower", "upper", "work", "merged":
            os.mkdir(os.path.join(place, name))
        options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, f"{place}/merged"], capture_output=True)
        if mounted.returncode == 0:
            subprocess.run(["umount", f"{place}/merged"], check=True)
        return mounted.returncode == 0


# ---- the base


def base_image(buildah, wanted, suite, mirror, say):
    """The name of the image to build on: `wanted`, or Debian's of the registry, or one made here."""
    if wanted:
        return wanted
    made, pulled = MADE_BASE.format(suite=suite), REGISTRY_BASE.format(suite=suite)
    for image in (made, pulled):
        if buildah.has(image):
            return image
    try:
        say(f"pulling {pulled}")
        buildah.run("pull", "--quiet", pulled, timeout=PULL_SECONDS)
        return pulled
    except (Failed, subprocess.TimeoutExpired):
        say(f"no registry can be reached: making the base from Debian's packages ({suite}); some minutes, once")
    make_base(buildah, made, suite, mirror)
    return made


def make_base(buildah, name, suite, mirror):
    """Commit an image `name` of a minimal Debian, as debootstrap installs it from `mirror`."""
    if shutil.which("debootstrap") is None:
        raise Failed("no registry can be reached, and debootstrap is not installed: apt-get install debootstrap")
    with tempfile.TemporaryDirectory(dir=buildah.folder) as place:
        context, root = pathlib.Path(place), pathlib.Path(place, "root")
        log = buildah.folder / "debootstrap.log"
        with open(log, "w") as file:
            done = subprocess.run(["debootstrap", "--variant=minbase", suite, str(root), mirror], stdout=file, stderr=file)
        if done.returncode:
            raise Failed(f"debootstrap failed: see {log}")
        _tidy_base(root, suite)
        subprocess.run(["tar", "-C", str(root), "--one-file-system", "-cf", str(context / "root.tar"), "."], check=True)
        (context / "Dockerfile").write_text("FROM scratch\nADD root.tar /\nCMD [\"bash\"]\n")
        buildah.run("bud", "--isolation=chroot", "--format=docker", "--file", context / "Dockerfile", "--tag", name, context)


def _tidy_base(root, suite):
    """Take away what debootstrap left and what came from this machine: its names, its name servers, its mirror."""
    for pattern in ("var/lib/apt/lists/*", "var/cache/apt/*", "var/log/*", *(f"{folder}/*" for folder in UNREAD)):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in ("resolv.conf", "hostname"):
        (root / "etc" / name).write_text("")
    excluded = "".join(f"path-exclude /{folder}/*\n" for folder in UNREAD)
    (root / "etc/dpkg/dpkg.cfg.d/unread").write_text(excluded)
    (root / "etc/apt/sources.list").write_text(sources(suite, MIRROR))


def sources(suite, mirror):
    """Debian's sources.list for `suite`, from `mirror` (.../debian)."""
    security = re.sub(r"/debian/?$", "/debian-security", mirror)
    places = ((mirror, suite), (mirror, f"{suite}-updates"), (security, f"{suite}-security"))
    return "".join(f"deb {address} {name} main\n" for address, name in places)


# ---- where packages come from on this machine


def pip_settings():
    """{name: value} of this machine's pip, from its files and its environment."""
    found = {}
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    for line in listed.splitlines():  # global.index-url='https://...', the environment's as :env:.index-url=
        match = re.fullmatch(r"(global|install|:env:)\.([\w-]+)='(.*)'", line)
        if match:
            found[match[2]] = match[3].replace("\\n", " ")
    return found


def machine_mirror(suite, folder="/etc/apt"):
    """Where this machine's apt gets Debian's `suite` from; Debian's own address when it is another system."""
    folder = pathlib.Path(folder)
    for path in (folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))):
        if path.exists():
            for match in re.finditer(rf"(?m)^deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+{suite}\s", path.read_text()):
                return match[1].rstrip("/")
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(line.split(":", 1) for line in stanza.splitlines() if ":" in line and not line.startswith("#"))
            if suite in fields.get("Suites", "").split():
                return fields["URIs"].split()[0].rstrip("/")
    return MIRROR


@contextlib.contextmanager
def secrets(folder, suite, mirror):
    """Yield buildah's arguments that let the build fetch packages as this machine does.

    A local folder among pip's places is served on loopback while the block lasts: a mounted folder would leave its mount
    point in a layer.
    """
    with contextlib.ExitStack() as stack:
        place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        settings = pip_settings()
        parser = configparser.ConfigParser(interpolation=None)
        parser["global"] = {name: settings[name] for name in CONNECTION if name in settings}
        for name in set(PLACES) & set(settings):
            served = (_reachable(word, stack) for word in settings[name].split())
            parser["global"][name] = " ".join(filter(None, served))
        given = {}
        if settings.get("cert"):
            parser["global"]["cert"] = "/run/secrets/ca"
            given["ca"] = settings["cert"]
        with open(place / "pip.conf", "w") as file:
            parser.write(file)
        given["pip"] = str(place / "pip.conf")
        if mirror != MIRROR:
            (place / "sources.list").write_text(sources(suite, mirror))
            given["apt"] = str(place / "sources.list")
        yield [word for id, path in given.items() for word in ("--secret", f"id={id},src={path}")]


def _reachable(word, stack):
    """The address of one of pip's places from within the build; None for a local index, which is left out."""
    if word.startswith("file://") or not re.match(r"\w+://", word):
        path = pathlib.Path(urllib.parse.unquote(urllib.parse.urlparse(word).path))
        return stack.enter_context(_served(path)) if any(path.glob("*.whl")) else None
    return word


@contextlib.contextmanager
def _served(folder):
    """Serve the files in `folder` on loopback; yields the address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


# ---- the image


def build(buildah, tag, target="course", base=None, suite=SUITE, mirror=None, arguments=(), say=print):
    """Build `target` as image `tag`; arguments: NAME=VALUE for the Dockerfile. Returns dict(base, seconds, bytes)."""
    mirror = mirror or machine_mirror(suite)
    base = base_image(buildah, base, suite, mirror, say)
    begun = time.monotonic()
    say(f"building {target} on {base}")
    named = [word for pair in (f"BASE_IMAGE={base}", *arguments) for word in ("--build-arg", pair)]
    with secrets(buildah.folder, suite, mirror) as given:
        # --format docker: the other format has no health check. --layers: what is built is found again next time.
        buildah.run("bud", "--isolation=chroot", "--network=host", "--format=docker", "--layers", "--target", target, *named,
                    *given, "--file", ROOT / "docker/Dockerfile", "--tag", tag, ROOT, capture=False)  # fmt: skip
    return {"base": base, "seconds": round(time.monotonic() - begun), "bytes": buildah.size(tag)}


def main():
    parser = argparse.ArgumentParser(description="Build the course's image with buildah.")
    parser.add_argument("--tag", default="localhost/ftlab:latest", help="the image's name (default: localhost/ftlab:latest)")
    parser.add_argument("--target", default="course", help="course (default) or student")
    parser.add_argument("--base", help="base image (default: Debian's of the registry, else one made by debootstrap)")
    parser.add_argument("--suite", default=SUITE, help=f"Debian's release for the base (default: {SUITE})")
    parser.add_argument("--mirror", help=f"Debian's packages (default: where this machine has them from, else {MIRROR})")
    parser.add_argument("--folder", default=FOLDER, help="for everything that is written (default: build/image)")
    parser.add_argument("--driver", help="buildah's storage: overlay or vfs (default: overlay where that works)")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="for the Dockerfile")
    options = parser.parse_args()
    buildah = None
    try:
        buildah = Buildah(options.folder, options.driver)
        done = build(buildah, options.tag, options.target, options.base, options.suite, options.mirror, options.build_arg)
    except Failed as problem:
        print(f"ftlab: {problem}", file=sys.stderr)
        return 2
    finally:
        if buildah:
            buildah.release()
    print(f"{options.tag}: {done['bytes'] / 1e6:,.0f} MB in {done['seconds']} s, on {done['base']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
