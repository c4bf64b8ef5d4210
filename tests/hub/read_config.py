"""Load the hub's configuration as JupyterHub does, under the settings in the environment; print what it says, as JSON.

Run by the hub's own Python. {unknown: [Class.trait that no such class has], values: {Class: {trait: text}}} and, with the
Docker spawner, containers: what it asks a Docker daemon to create for a student and for an instructor. The daemon is a
stand-in on loopback that writes down what it is asked.
"""

import asyncio
import http.server
import json
import os
import pathlib
import sys
import threading
import types

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "docker" / "jupyterhub" / "jupyterhub_config.py"


def main():
    """Print the findings."""
    from jupyterhub.app import JupyterHub

    app = JupyterHub()
    app.load_config_file(str(CONFIG))
    classes = known_classes(app)
    unknown = [
        f"{section}.{trait}" for section, values in app.config.items() for trait in values
        if section not in classes or trait not in classes[section].class_traits(config=True)
    ]  # fmt: skip
    values = {section: {trait: str(value) for trait, value in part.items()} for section, part in app.config.items()}
    found = {"unknown": unknown, "values": values}
    if app.spawner_class.__name__ == "DockerSpawner":
        found["containers"] = containers(app)
    elif not unknown:
        app.spawner_class(config=app.config, **hub_of("ada", 1, False))  # raises where a value is of the wrong type
    print(json.dumps(found))


def known_classes(app):
    """{name: class} of all whose traits the configuration may set: the real ones."""
    app.update_config(app.config)
    spawner, authenticator = app.spawner_class, app.authenticator_class
    every = [type(app), app.proxy_class, *spawner.mro(), *authenticator.mro()]
    return {one.__name__: one for one in every if hasattr(one, "class_traits")}


def hub_of(name, number, admin):
    """What a spawner is told about its user and its hub."""
    user = types.SimpleNamespace(name=name, id=number, admin=admin, escaped_name=name, settings={}, url=f"/user/{name}/")
    return {"user": user, "hub": types.SimpleNamespace(api_url="http://hub:8081/hub/api", public_host="", base_url="/hub/")}


class Daemon(http.server.BaseHTTPRequestHandler):
    """Docker's HTTP interface, as much of it as creating a container asks for."""

    asked = []

    def do_GET(self):
        """The versions; there is no container yet."""
        if self.path.endswith("/version"):
            self._answer(200, {"ApiVersion": "1.45", "Version": "27"})
        else:
            self._answer(404, {"message": "no such container"})

    def do_POST(self):
        """Write down what is to be created."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append({"path": self.path, "body": json.loads(body or b"{}")})
        self._answer(201, {"Id": "0" * 64, "Warnings": []})

    def _answer(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def containers(app):
    """{who: what Docker is asked to create} for a student with the hub's number 4, one with 5, and an instructor."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Daemon)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["DOCKER_HOST"] = f"tcp://127.0.0.1:{server.server_port}"
    people = {"student": ("ada", 4, False), "next": ("Émile B.", 5, False), "instructor": ("teacher", 6, True)}
    return {who: asyncio.run(create(app, *person)) for who, person in people.items()}


async def create(app, name, number, admin):
    """The body of the request that creates this person's container."""
    spawner = app.spawner_class(config=app.config, **hub_of(name, number, admin))
    spawner.get_env = lambda: dict(spawner.environment)
    spawner.get_command = command
    await asyncio.ensure_future(maybe(spawner.run_pre_spawn_hook()))
    Daemon.asked.clear()
    await spawner.create_object()
    (asked,) = [request for request in Daemon.asked if "/containers/create" in request["path"]]
    return asked["body"] | {"name": asked["path"].partition("name=")[2]}


async def command():
    """The image's own."""
    return []


async def maybe(value):
    """`value`, awaited where it has to be."""
    return await value if hasattr(value, "__await__") else value


if __name__ == "__main__":
    sys.exit(main())
