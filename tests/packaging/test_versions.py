"""pyproject.toml (ranges), constraints.txt (exact), environment.yml and the Makefile name the same versions."""

import pathlib
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What Colab had preinstalled in August 2026: the core must fit without replacing any of it.
COLAB = {
    "torch": "2.11.0+cu128",
    "transformers": "5.15.0",
    "tokenizers": "0.22.2",
    "safetensors": "0.8.0",
    "numpy": "2.1.3",
    "matplotlib": "3.10.0",
    "ipywidgets": "7.7.1",
    "peft": "0.20.0",
    "accelerate": "1.14.0",
    "datasets": "4.0.0",
    "ipykernel": "6.17.1",
    "nbclient": "0.10.4",
    "nbformat": "5.11.1",
}


def ranges():
    """{name: [Requirement]} of the core and every extra but `colab`, without the references to ourselves."""
    extras = [lines for extra, lines in PROJECT["optional-dependencies"].items() if extra != "colab"]
    lines = PROJECT["dependencies"] + sum(extras, [])
    found = {}
    for requirement in map(Requirement, lines):
        if requirement.name != PROJECT["name"]:
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def pins():
    """{name: version} of constraints.txt, every line of which is an exact pin or a comment."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
            assert match, f"not an exact pin: {line}"
            found[canonicalize_name(match[1])] = match[2]
    return found


def conda():
    """(conda's own lines, pip's lines) of environment.yml."""
    lines = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (pip,) = [line["pip"] for line in lines if isinstance(line, dict)]
    return [line for line in lines if isinstance(line, str)], pip


def test_every_dependency_has_a_lower_bound_and_a_pin_that_fits():
    exact = pins()
    for name, requirements in ranges().items():
        assert name in exact, f"{name} is in pyproject.toml but not in constraints.txt"
        for requirement in requirements:
            assert any(spec.operator == ">=" for spec in requirement.specifier), f"{requirement} has no lower bound"
            assert requirement.specifier.contains(exact[name]), f"{requirement} does not allow {exact[name]}"


def test_every_pin_that_is_needed_transitively_is_there():
    """What is installed here satisfies our dependencies; each of its own dependencies must be pinned too."""
    import importlib.metadata

    exact, queue, seen = pins(), list(ranges()), set()
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        assert name in exact, f"{name} is installed for ftlab but not pinned"
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                queue.append(canonicalize_name(requirement.name))
    assert len(seen) > 60


def test_the_pins_take_every_python_that_we_promise():
    """Debian 12's is 3.11.2; where one pin refuses it, pip searches for minutes and names no reason."""
    import importlib.metadata

    promised = PROJECT["requires-python"].removeprefix(">=")
    exact, refused = pins(), {}
    for found in importlib.metadata.distributions():
        name, needs = canonicalize_name(found.metadata["Name"]), found.metadata.get("Requires-Python")
        if needs and found.version.split("+")[0] == exact.get(name) and not SpecifierSet(needs).contains(f"{promised}.0"):
            refused[name] = needs
    assert refused == {}


def test_colab_fits_the_ranges():
    found = ranges()
    for name, version in COLAB.items():
        for requirement in found[name]:
            assert requirement.specifier.contains(version), f"{requirement} would replace Colab's {version}"
    core = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert core <= set(COLAB), "the core must be what Colab has: put more into an extra"


def test_what_colab_lacks_is_exact_and_fits_what_the_labs_ask_for():
    found = ranges()
    for requirement in map(Requirement, PROJECT["optional-dependencies"]["colab"]):
        (pin,) = requirement.specifier
        assert pin.operator == "==" and canonicalize_name(requirement.name) not in COLAB
        for other in found[canonicalize_name(requirement.name)]:
            assert other.specifier.contains(pin.version), f"{requirement} is not {other}"


def test_environment_yml_agrees():
    exact, (own, pip) = pins(), conda()
    (python,) = [line.partition("=")[2] for line in own if line.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    assert "--constraint constraints.txt" in pip, "the exact versions come from constraints.txt"
    assert "--editable .[all]" in pip
    named = [Requirement(line) for line in pip if not line.startswith("-")]
    assert "torch" in {requirement.name for requirement in named}
    for requirement in named:
        assert str(requirement.specifier) == f"=={exact[canonicalize_name(requirement.name)]}"
    assert all(line == "pip" or line.startswith("python=") for line in own), "conda brings Python, pip the rest"


def test_makefile_names_torch_exactly():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^TORCH = torch==([\w.]+)$", text, re.M) == [pins()["torch"]]
    assert re.findall(r"^COLAB_TORCH \?= torch==([\w.]+)$", text, re.M) == [COLAB["torch"].partition("+")[0]]


def test_colabs_environment_agrees():
    """tests/colab/requirements.txt holds Colab's versions; where its whole list lies beside the checkout, by that."""
    lines = (ROOT / "tests" / "colab" / "requirements.txt").read_text(encoding="utf-8").partition("# Not on Colab")[0]
    made = dict(line.split("==") for line in lines.splitlines() if line and not line.startswith("#"))
    made = {canonicalize_name(name): version for name, version in made.items()}
    assert {name: made[name] for name in COLAB if name != "torch"} == {n: v for n, v in COLAB.items() if n != "torch"}
    whole = ROOT.parent / "shared" / "data" / "colab-gpu-2026-08-19.txt"
    if whole.exists():
        listed = (line.split("==") for line in whole.read_text(encoding="utf-8").splitlines() if re.match(r"[\w.-]+==", line))
        listed = {canonicalize_name(name): version for name, version in listed}
        assert {name: listed.get(name) for name in made} == made


def test_extra_all_names_every_extra():
    extras = PROJECT["optional-dependencies"]
    (line,) = extras["all"]
    assert Requirement(line).extras == set(extras) - {"all", "colab"}, "Colab's versions are others"


@pytest.mark.parametrize("name", ["lab", "tune", "grade", "dev"])
def test_extras_exist(name):
    assert PROJECT["optional-dependencies"][name]
