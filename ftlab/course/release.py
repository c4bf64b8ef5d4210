"""`ftlab release`: the folder that students get. What must stay with the instructor is left out, and looked for.

A release holds the chosen labs with their gaps, the package that they need, and what `make lab` needs. It holds no
solutions, no probes, no grading and no tests; of the answers only the empty gaps, for `lab.reset`. It does hold the
checks (`ftlab/course/checks`), which run in the student's kernel and compare with a right result, so they know how to
make one; and the package itself, which is the course's library. Whoever reads these finds working code: what decides a
grade are hidden probes, which run where the library's answers are withheld.
"""

import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import tomllib
import zipfile

import ftlab
from ftlab.course import catalogue
from ftlab.course import repository as address
from ftlab.course.notebooks import answers, lab_notebook, notebook_text, released_head
from ftlab.course.source import BEGIN, END, STUB, read_lab
from ftlab.errors import NotHeld, UsageError
from ftlab.files import atomic_folder, atomic_write_bytes, check_free

RECORD = "release.json"  # what a release was made of: {course, version, labs, files: {path: SHA-256}}
TEMPLATE = catalogue.PACKAGE / "course" / "template" / "release"
COPIED = ("LICENSE", "LICENSE-text", "CITATION.cff", "constraints.txt", "environment.yml")
# Below ftlab/: what only those need who build, grade or measure the course.
LEFT_OUT = (
    "bench", "grade", "course/answers", "course/template",
    "course/new.py", "course/notebooks.py", "course/release.py", "course/repository.py", "course/runner.py",
    "course/source.py",
)  # fmt: skip
EXTRAS = ("lab", "tune", "colab")  # of pyproject.toml: what the labs use
ARCHIVE = "course.zip"  # what a release's archive is called where nobody named it
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say: the same release is the same bytes on any day


def release(labs, out, archive=False, repository=None, report=lambda text: None):
    """Write the release of `labs` to folder `out`; with `archive`, to `out`.zip too. Returns the lines that say so.

    An older release at `out` is replaced at once; files there that are not the release's own (a .git folder, a syllabus)
    stay. repository: OWNER/NAME on GitHub where this release will lie, for the Colab badges.
    Raises UsageError when `out` holds something else, or a file of the release that was changed since; NotHeld when what
    was made holds something that students must not see.
    """
    out = pathlib.Path(out)
    if repository is not None:
        address.check(repository)
    kept, before = _kept(out), _labs_at(out)
    target = out.with_name(out.name + ".zip") if archive else None
    if target is not None:
        _check_archive(target)
    sources = _sources_of(labs, report)
    files = release_files(sources, repository, out.name + ".zip")
    clash = sorted(set(files) & set(kept))
    if clash:
        raise UsageError(f"{out / clash[0]} is not the release's, and the new release has a file of that name: move it away")
    found = leaks(files, sources)
    if found:
        raise NotHeld("nothing was released; students must not see " + "\n       ".join(found))
    report(f"writing {len(files)} files")
    with atomic_folder(out) as folder:
        for name, data in files.items():
            _write(folder / name, data)
        for name in kept:
            _carry(out / name, folder / name)
    lines = [f"{out}: {len(labs)} labs, {len(files)} files, {sum(map(len, files.values())) / 2**20:.1f} MiB"]
    gone = sorted(set(before) - set(labs))
    if gone:
        every = ",".join(lab[:2] for lab in sorted({*before, *labs}))
        lines.append(f"no longer in it: {', '.join(gone)} (name every lab that students have: --labs {every})")
    if target is not None:
        atomic_write_bytes(target, zipped(files, out.name))
        lines.append(f"{target}: the same as an archive")
    return lines


def _sources_of(labs, report):
    """{lab: its cells} of the labs' sources."""
    if not catalogue.SOLUTIONS.is_dir():
        raise UsageError("ftlab release works in a checkout of the course's repository: a release has no solutions")
    sources = {}
    for lab in labs:
        report(f"reading {lab}")
        sources[lab] = read_lab(lab)
    return sources


def release_files(sources, repository=None, archive=ARCHIVE):
    """{path: bytes} of everything in a release of `sources`, {lab: its cells}; its record too; in the order of the paths.

    archive: the name of the zip archive that students get, from which the first cell installs on Colab.
    """
    labs, files = list(sources), {}
    for lab, cells in sources.items():
        head = released_head(lab, repository, archive)
        files[f"labs/{lab}.ipynb"] = notebook_text(lab_notebook(lab, cells, head)).encode()
        files[f"ftlab/course/answers/{lab}.json"] = _stubs(cells)
    files |= _package(labs)
    files |= {name: _bytes(catalogue.ROOT / name) for name in COPIED}
    files |= {
        "pyproject.toml": _pyproject().encode(),
        "Makefile": _filled("Makefile.txt", torch=_torch()).encode(),
        "README.md": _readme(labs, repository, archive).encode(),
        ".gitignore": _bytes(TEMPLATE / "gitignore.txt"),
    }
    hashes = {name: _hash(files[name]) for name in sorted(files)}
    record = {"course": "ftlab", "version": ftlab.__version__, "labs": labs, "files": hashes}
    files[RECORD] = (json.dumps(record, indent=1) + "\n").encode()
    return dict(sorted(files.items()))


# ---- what of the package


def _package(labs):
    """{path: bytes} of the package as a student needs it: no answers, and of other labs only what these labs load."""
    files = {}
    needed = _modules(labs)
    claims = {claim.id for lab in labs for claim in catalogue.claims(lab)}
    for path in sorted(catalogue.PACKAGE.rglob("*")):
        name = path.relative_to(catalogue.PACKAGE).as_posix()
        parts = pathlib.PurePosixPath(name).parts
        if path.is_symlink() or not path.is_file() or any(part.startswith((".", "__pycache__")) for part in parts):
            continue
        if any(name == out or name.startswith(f"{out}/") for out in LEFT_OUT):
            continue
        if parts[0] != "assets" and path.suffix != ".py":
            continue
        if parts[:2] in (("course", "checks"), ("course", "studies")) and path.stem[:2].isdigit() and path not in needed:
            continue
        if parts[:2] == ("assets", "studies") and path.stem not in claims:
            continue
        if parts[:2] == ("assets", "labs"):
            continue
        files[f"ftlab/{name}"] = path.read_bytes()
    return files


def _modules(labs):
    """The paths of the checks and studies of `labs`, and of those that they load from other labs."""
    course = catalogue.PACKAGE / "course"
    wanted = [course / part / f"{lab}.py" for lab in labs for part in ("checks", "studies")]
    wanted += [catalogue.SOLUTIONS / f"{lab}.py" for lab in labs]
    found = set()
    while wanted:
        path = wanted.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        for part, name in re.findall(r"\b(checks|studies)\.load\(\"(\w+)\"\)", path.read_text(encoding="utf-8")):
            wanted.append(course / part / f"{name}.py")
    return found


# ---- what is written for students


def _stubs(cells):
    """The answers' file without the answers: the empty exercises, for `lab.reset`."""
    stubs = {id: {"stub": answer["stub"]} for id, answer in answers(cells).items()}
    return (json.dumps(stubs, indent=1, ensure_ascii=False) + "\n").encode()


def _pyproject():
    """The release's pyproject.toml: the checkout's, with what installs the labs and nothing else."""
    whole = tomllib.loads((catalogue.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, tools = whole["project"], whole["tool"]["setuptools"]
    extras = {name: project["optional-dependencies"][name] for name in EXTRAS}
    tables = {
        "build-system": whole["build-system"],
        "project": {key: project[key] for key in ("name", "dynamic", "description", "readme", "requires-python", "license",
                                                  "license-files", "dependencies")},
        "project.optional-dependencies": extras | {"all": ["ftlab[lab,tune]"]},
        "project.scripts": {"ftlab": project["scripts"]["ftlab"]},
        "tool.setuptools.packages.find": tools["packages"]["find"],
        "tool.setuptools.package-data": {"ftlab": ["assets/**/*"]},
    }  # fmt: skip
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()), ""]
    lines += ["[tool.setuptools.dynamic]", f'version = {{attr = "{tools["dynamic"]["version"]["attr"]}"}}', ""]
    return "\n".join(lines)


def _torch():
    """The line `torch==...` that the checkout's Makefile installs."""
    return re.search(r"^TORCH = (\S+)$", (catalogue.ROOT / "Makefile").read_text(encoding="utf-8"), re.M).group(1)


def _readme(labs, repository, archive):
    exercises = {lab: catalogue.exercises(lab).values() for lab in labs}
    rows = [
        f"| [{lab[:2]} {title(lab)}](labs/{lab}.ipynb) | {len(items)} | {sum(item.minutes for item in items)} "
        f"| {sum(item.points for item in items):g} |"
        for lab, items in exercises.items()
    ]
    colab = "colab_repository.txt" if repository else "colab_archive.txt"
    return _filled("README.txt", rows="\n".join(rows), first=labs[0], colab=_filled(colab, first=labs[0],
                   repository=repository, archive=archive).strip())  # fmt: skip


def title(lab):
    """The lab's name as its first heading says it, without the number: "LoRA: a small correction beside a large matrix"."""
    text = (catalogue.SOLUTIONS / f"{lab}.py").read_text(encoding="utf-8")
    return re.search(r"^# # (?:(?:Lab )?\d\d · )?(.+)$", text, re.M).group(1)


def _filled(name, **values):
    text = (TEMPLATE / name).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key.upper()}@", str(value))
    return text


# ---- what must not be in it


def leaks(files, sources):
    """Lines that name what students must not see in `files`, {path: bytes}. Looked for in every release.

    sources: {lab: its cells}.
    """
    found = []
    gaps = {(lab, cell.id): _gap(cell) for lab, cells in sources.items() for cell in cells if cell.kind == "exercise"}
    for name, data in files.items():
        if re.search(r"(^|/)(solutions|tests|grade|__pycache__|\.git)/|\.py[co]$", name):
            found.append(f"{name}: it is not for a release")
        if name.endswith((".safetensors", ".gz")):
            continue
        text = _sources(name, data.decode("utf-8"))
        found += [f"{name}: {mark!r}" for mark in (BEGIN, END, STUB, "lab.probe(") if mark in text]
        if not name.endswith(".py"):  # the checks and the library hold right code: see above
            lines = {line.strip() for line in text.split("\n")}
            found += [f"{name}: the solution of {id}" for (lab, id), gap in gaps.items() if gap and gap <= lines]
    return found


def _gap(cell):
    """The lines of code inside an exercise's gaps that say something: those of 12 characters or more, unindented."""
    inside, lines = False, set()
    for line in cell.source.split("\n"):
        inside = (inside or BEGIN in line) and END not in line
        text = line.strip()
        if inside and len(text) >= 12 and not text.startswith("#"):
            lines.add(text)
    return lines


def _sources(name, text):
    """`text`, or what a notebook's cells or a JSON file's strings say, line by line."""
    if name.endswith(".ipynb"):
        return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return "\n".join(_strings(json.loads(text))) if name.endswith(".json") else text


def _strings(value):
    """Every text in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


# ---- writing


def zipped(files, top):
    """The bytes of a zip archive of `files` under one folder `top`; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(f"{top}/{name}", _ZIP_TIME)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _labs_at(out):
    """The labs of the release that lies at `out`, which `_kept` has looked at."""
    return _record(_bytes(out / RECORD))["labs"] if (out / RECORD).is_file() else []


def _kept(out):
    """What lies at `out` and is not the release's own, as paths: each a file, or a folder that holds none of its files.

    Raises UsageError when `out` is no release of ours, or a file of the release was changed.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        check_free(out)
        return []
    record = _record(_bytes(out / RECORD) if (out / RECORD).is_file() else b"")
    if record is None:
        raise UsageError(f"{out} exists and is no release of this course: give another folder with --out, or remove it first")
    changed = [name for name, old in record["files"].items() if (out / name).exists() and _hash(_bytes(out / name)) != old]
    if changed:
        raise UsageError(f"{out / changed[0]} was changed since it was released ({len(changed)} of its files were): "
                         "move your changes away, or give another folder with --out")  # fmt: skip
    ours = {RECORD, *record["files"]}
    folders = {str(parent) for name in ours for parent in pathlib.PurePosixPath(name).parents}
    return sorted(_foreign(out, out, ours, folders))


def _foreign(folder, out, ours, folders):
    for path in folder.iterdir():
        name = path.relative_to(out).as_posix()
        if name in ours or path.name == "__pycache__":
            continue
        if name in folders and not path.is_symlink():
            yield from _foreign(path, out, ours, folders)
        else:
            yield name


def _carry(old, new):
    """Put what is at `old` at `new`, too, by hard links where the file system has them."""
    new.parent.mkdir(parents=True, exist_ok=True)
    if old.is_symlink():
        os.symlink(os.readlink(old), new)
    elif old.is_dir():
        shutil.copytree(old, new, symlinks=True, copy_function=_link)
    else:
        _link(old, new)


def _link(old, new):
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def _check_archive(path):
    """Raise UsageError unless `path` is free or an archive of ours."""
    if not path.exists():
        return
    try:
        with zipfile.ZipFile(path) as archive:
            record = _record(archive.read(f"{path.stem}/{RECORD}"))
    except (OSError, KeyError, zipfile.BadZipFile):
        record = None
    if record is None:
        raise UsageError(f"{path} exists and is no release of this course: move it away, or give another folder with --out")


def _record(data):
    """The record in `data`, or None when it is none of ours."""
    try:
        record = json.loads(data)
        return record if record["course"] == "ftlab" and isinstance(record["files"], dict) else None
    except (ValueError, KeyError, TypeError):
        return None


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _bytes(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror})") from None


def _hash(data):
    return hashlib.sha256(data).hexdigest()
