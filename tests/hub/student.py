"""A person at a hub, as a browser is one: pages, forms, cookies with their XSRF tokens, a notebook's kernel."""

import json
import re
import time
import urllib.parse
import uuid

import requests
import websocket
from hub.harness import PATIENCE, wait_for


class Person:
    """One browser session at the hub at `url`."""

    def __init__(self, url, name, password):
        self.url, self.name, self.password = url, name, password
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy: the hub is on this machine
        self.ready_seconds = None

    # ---- the hub's pages

    def _xsrf(self, path):
        """The XSRF token that the browser holds for `path`."""
        return next((cookie.value for cookie in self.session.cookies if cookie.name == "_xsrf" and cookie.path == path), "")

    def page(self, path, **options):
        """GET as a click on a link does."""
        headers = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "same-origin"}
        return self.session.get(self.url + path, headers=headers, timeout=PATIENCE, **options)

    def _submit(self, path, fields):
        self.page(path).raise_for_status()
        return self.session.post(self.url + path, data=fields | {"_xsrf": self._xsrf("/hub/")}, timeout=PATIENCE)

    def sign_up(self, password=None):
        """Fill in the form for a new account; the page's text."""
        password = password or self.password
        fields = {"username": self.name, "signup_password": password, "signup_password_confirmation": password}
        return self._submit("/hub/signup", fields).text

    def log_in(self, password=None):
        """Fill in the login form; whether it let this person in."""
        password = password or self.password
        self._submit("/hub/login?next=%2Fhub%2Fhome", {"username": self.name, "password": password})
        return self.hub_api("GET", "/user").status_code == 200

    def authorize(self, name):
        """An instructor's click on "authorize" beside a student's name."""
        return self.page(f"/hub/authorize/{name}")

    def hub_api(self, method, path, **options):
        """Ask the hub's REST interface as the hub's own pages do."""
        headers = {"X-XSRFToken": self._xsrf("/hub/")}
        return self.session.request(method, f"{self.url}/hub/api{path}", headers=headers, timeout=PATIENCE, **options)

    # ---- the own server

    def start_server(self):
        """Click "Start My Server", and wait for the page that it leads to; sets ready_seconds."""
        began = time.monotonic()
        self.page("/hub/spawn").raise_for_status()
        wait_for(self._ready, PATIENCE, f"{self.name}'s server", every=1)
        self.open_server().raise_for_status()
        self.ready_seconds = time.monotonic() - began

    def _ready(self):
        server = self.hub_api("GET", f"/users/{self.name}").json()["servers"].get("")
        return server and server["ready"]

    def open_server(self, owner=None):
        """Open JupyterLab's page of `owner`'s server (default: one's own), through the hub's questions and redirects."""
        page = self.page(f"/user/{owner or self.name}/lab")
        if page.status_code == 200 and "/hub/api/oauth2/authorize" in page.url:
            # Another's server: the hub asks whether one means it; the click on "Authorize".
            fields = [("_xsrf", self._xsrf("/hub/"))]
            fields += re.findall(r'<input\s+type="hidden"\s+name="(scopes)"\s+value="([^"]*)"', page.text)
            headers = {"Sec-Fetch-Mode": "navigate", "Referer": page.url}
            page = self.session.post(page.url, data=fields, headers=headers, timeout=PATIENCE)
        return page

    def api(self, method, path, owner=None, **options):
        """Ask a server's REST interface with this person's cookies."""
        base = f"/user/{owner or self.name}/"
        headers = {"X-XSRFToken": self._xsrf(base)}
        return self.session.request(method, f"{self.url}{base}api{path}", headers=headers, timeout=PATIENCE, **options)

    def read(self, path, owner=None):
        """The content of a file, by the contents interface."""
        answer = self.api("GET", f"/contents/{urllib.parse.quote(path)}", owner, params={"content": 1})
        answer.raise_for_status()
        return answer.json()["content"]

    def write(self, path, notebook):
        """Save a notebook."""
        body = {"type": "notebook", "format": "json", "content": notebook}
        self.api("PUT", f"/contents/{urllib.parse.quote(path)}", json=body).raise_for_status()

    def open_notebook(self, path):
        """A kernel for the notebook, as JupyterLab opens one."""
        body = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        answer = self.api("POST", "/sessions", json=body)
        answer.raise_for_status()
        return Kernel(self, answer.json()["kernel"]["id"])

    def websocket(self, path, owner=None):
        """A websocket to a server, with this person's cookies; raises websocket.WebSocketBadStatusException when refused."""
        base = f"/user/{owner or self.name}/"
        pairs = requests.cookies.get_cookie_header(
            self.session.cookies, requests.Request("GET", f"{self.url}{base}api").prepare()
        )
        query = urllib.parse.urlencode({"_xsrf": self._xsrf(base)})
        address = f"{self.url.replace('http', 'ws', 1)}{base}api{path}"
        return websocket.create_connection(
            f"{address}{'&' if '?' in path else '?'}{query}", cookie=pairs or None, origin=self.url, timeout=PATIENCE,
            http_no_proxy=["127.0.0.1"],
        )  # fmt: skip


class Kernel:
    """A kernel behind its websocket. A context manager; leaving it closes the socket, the kernel stays."""

    def __init__(self, person, kernel_id):
        self.person, self.id, self.session = person, kernel_id, uuid.uuid4().hex
        self.socket = person.websocket(f"/kernels/{kernel_id}/channels?session_id={self.session}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def run(self, code):
        """Execute `code`; its outputs as a notebook stores them."""
        message = uuid.uuid4().hex
        header = {"msg_id": message, "msg_type": "execute_request", "session": self.session, "username": "", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False,
                   "stop_on_error": True}  # fmt: skip
        request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self.socket.send(json.dumps(request))
        outputs, replied, idle = [], False, False
        while not (replied and idle):
            kind, content = self._receive(message)
            replied = replied or kind == "execute_reply"
            idle = idle or (kind == "status" and content["execution_state"] == "idle")
            if kind in ("stream", "display_data", "execute_result", "error"):
                outputs.append({"output_type": kind} | {key: value for key, value in content.items() if key != "transient"})
        return outputs

    def _receive(self, parent):
        """(type, content) of the next message that answers request `parent`."""
        while True:
            text = self.socket.recv()
            if isinstance(text, bytes):
                continue  # a widget's data, with buffers
            message = json.loads(text)
            if message["parent_header"].get("msg_id") == parent:
                return message["msg_type"], message["content"]
