"""The values for Zero to JupyterHub: every key is one that the chart's own schema knows, and the parts fit together."""

import copy
import json
import os
import pathlib
import urllib.parse

import jsonschema
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker" / "kubernetes"
DATA = pathlib.Path(os.environ.get("FTLAB_SHARED_DATA") or ROOT.parent / "shared" / "data")
SCHEMA = DATA / "z2jh-values.schema.yaml"


@pytest.fixture
def values():
    """The values as helm gets them: with the file that the command line adds."""
    found = yaml.safe_load((FOLDER / "values.yaml").read_text(encoding="utf-8"))
    native = (ROOT / "docker" / "jupyterhub" / "native.py").read_text(encoding="utf-8")
    found["hub"]["extraFiles"]["native"]["stringData"] = native
    return found


@pytest.fixture(scope="module")
def schema():
    """The chart's schema, for values that are laid over the chart's own: what has a default there may be left out."""
    if not SCHEMA.exists():
        pytest.skip(f"no {SCHEMA.name} (the chart's values.schema.yaml): name its folder with FTLAB_SHARED_DATA")
    return without_required(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))


def without_required(node):
    """`node` of a schema without its lists of required properties, at any depth."""
    if isinstance(node, list):
        return [without_required(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {key: without_required(value) for key, value in node.items() if not (key == "required" and isinstance(value, list))}


def complaints(values, schema):
    """What the schema says against the values, a line each. "oneOf" stood for "required" only: an entry needs one of three."""
    errors = jsonschema.Draft7Validator(schema).iter_errors(values)
    return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in errors if error.validator != "oneOf"]


def test_every_key_is_the_charts(values, schema):
    assert complaints(values, schema) == []


@pytest.mark.parametrize(
    "path", ["singleuser.memroy", "hub.db.pvc.size", "cull.idle", "prePuller.hook.enable", "singleuser.storage.size", "extra"]
)
def test_a_wrong_key_is_noticed(values, schema, path):
    wrong = copy.deepcopy(values)
    *folders, name = path.split(".")
    place = wrong
    for folder in folders:
        place = place[folder]
    place[name] = True
    assert any(name in line for line in complaints(wrong, schema))


def test_shared_memory_is_memory_and_mounted(values):
    storage = values["singleuser"]["storage"]
    volumes = {volume["name"]: volume for volume in storage["extraVolumes"].values()}
    mounts = {mount["mountPath"]: mount for mount in storage["extraVolumeMounts"].values()}
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
    assert {mount["name"] for mount in mounts.values()} == set(volumes)


def test_profiles(values):
    profiles = {profile["slug"]: profile.get("kubespawner_override", {}) for profile in values["singleuser"]["profileList"]}
    assert [profile["slug"] for profile in values["singleuser"]["profileList"] if profile.get("default")] == ["cpu"]
    asked = {slug: list(override.get("extra_resource_limits", {})) for slug, override in profiles.items()}
    assert asked["cpu"] == []
    assert asked["gpu"] == ["nvidia.com/gpu"]
    assert asked["gpu-slice"][0].startswith("nvidia.com/mig-")
    # What is shared is offered under the name that the profile asks for.
    sharing = yaml.safe_load((FOLDER / "gpu-sharing.yaml").read_text(encoding="utf-8"))["sharing"]["timeSlicing"]
    assert sharing["renameByDefault"] and asked["gpu-shared"] == [f"{sharing['resources'][0]['name']}.shared"]


def test_the_courses_link_can_be_read(values):
    path, _, query = values["singleuser"]["defaultUrl"].partition("?")
    fields = urllib.parse.parse_qs(query, strict_parsing=True)
    assert path == "/git-pull"
    assert set(fields) == {"repo", "branch", "targetPath", "urlpath"}
    assert fields["urlpath"][0].startswith(f"lab/tree/{fields['targetPath'][0]}")


@pytest.mark.hub
@pytest.mark.full
def test_what_is_free_text_to_the_schema_is_known_to_the_classes(values):
    """hub.config and kubespawner_override: the real classes are asked."""
    import subprocess

    from hub.harness import PYTHON

    code = """
import json, kubespawner, nativeauthenticator
from jupyterhub import app, auth
classes = [kubespawner.KubeSpawner, app.JupyterHub, auth.Authenticator, nativeauthenticator.NativeAuthenticator]
print(json.dumps({one.__name__: sorted(one.class_traits(config=True)) for one in classes}))
"""
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    traits = json.loads(done.stdout)
    for profile in values["singleuser"]["profileList"]:
        assert set(profile.get("kubespawner_override", {})) <= set(traits["KubeSpawner"])
    for name, settings in values["hub"]["config"].items():
        assert set(settings) <= set(traits[name])
