"""A real JupyterLab and a real Chromium, with the few moves that a person makes in a notebook.

Lab authors: see README.md beside this file.
"""

import contextlib
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
# Seconds to wait for what must come at once on an idle machine: tests must not fail on a busy one.
PATIENCE = 240
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
# JupyterLab as it is when just installed, but for these.
_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Every cell is in the page, not only those in sight.
    "notebook-extension/tracker": {"windowingMode": "none"},
}


class Server:
    """A JupyterLab of our own: temporary home, settings and work folder, its own token. A context manager."""

    def __init__(self, folder, command=None, env=None):
        """folder: everything of this server lies in it; notebooks in `self.work`.

        command: what to start instead of JupyterLab; "{port}" and "{work}" are filled in.
        """
        self.folder = pathlib.Path(folder)
        self.work = self.folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.folder / "server.log"
        self.command = command or _lab_command()
        self.env = self._environment() | (env or {})
        self.process = None

    def _environment(self):
        home = self.folder / "home"
        settings = home / "settings"
        for name, values in _SETTINGS.items():
            path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        config = home / "config" / "jupyter_lab_config.json"
        config.parent.mkdir()
        # window.jupyterapp: how the harness asks JupyterLab what a notebook's cells hold.
        config.write_text(json.dumps({"LabApp": {"expose_app_in_browser": True}}))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "IPYTHON", "COV"))}
        return kept | {
            "HOME": str(home),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "JUPYTER_PREFER_ENV_PATH": "1",
            "JUPYTER_TOKEN": self.token,
            "FTLAB_HOME": str(home / "ftlab"),
            "FTLAB_PROFILE": "cpu",
            "FTLAB_FAST": "1",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }

    def __enter__(self):
        command = [part.format(port=self.port, work=self.work) for part in self.command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.work, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait(PATIENCE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended by itself:\n{self.log.read_text()[-3000:]}")
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                self.api("/api/status")
                return
            time.sleep(0.2)
        raise RuntimeError(f"the server did not answer in {seconds} s:\n{self.log.read_text()[-3000:]}")

    def api(self, path, method="GET"):
        """The JSON answer of the server's own interface."""
        request = urllib.request.Request(
            self.url + path, method=method, headers={"Authorization": f"token {self.token}"}
        )
        # No proxy: the server is on this machine.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def __exit__(self, *_):
        if self.process is None or self.process.poll() is not None:
            return
        # Asked to, the server ends its kernels first.
        with contextlib.suppress(OSError):
            self.api("/api/shutdown", "POST")
        for end in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(60)
                return
            except subprocess.TimeoutExpired:
                end()
        self.process.wait(60)

    def shut_kernels(self):
        """End every kernel, so that one lab's memory is not the next one's."""
        for session in self.api("/api/sessions"):
            with contextlib.suppress(urllib.error.HTTPError):
                self.api(f"/api/sessions/{session['id']}", "DELETE")


def _lab_command():
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1"]
    command += ["--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.root_dir={work}"]
    return command + (["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Notebook:
    """A notebook that is open in the browser. `page` is Playwright's page: use it for anything not offered here."""

    def __init__(self, page, server, name):
        self.page, self.server, self.name = page, server, name
        self.complaints = []  # what the page's scripts complained of
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._hear)
        try:
            self._open()
        except Exception:
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=SCREENSHOTS / f"failed-{name}.png")
            raise

    def _open(self):
        address = f"{self.server.url}/lab/tree/{self.name}?token={self.server.token}&reset"
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=PATIENCE * 1000)
        self._wait_js("panel?.sessionContext?.session?.kernel?.status === 'idle'", PATIENCE)
        # Room for the notebook: no side bar.
        self._js("(app) => { app.shell.collapseLeft(); app.shell.collapseRight(); }")

    def _hear(self, message):
        text = message.text
        if message.type == "error" and ("widget" in text.lower() or "mime" in text.lower()):
            self.complaints.append(text)

    def _js(self, function, argument=None):
        """The value of a function of JupyterLab's application object."""
        return self.page.evaluate(f"(argument) => ({function})(window.jupyterapp, argument)", argument)

    def _wait_js(self, condition, seconds):
        self.page.wait_for_function(
            f"() => {{ const panel = window.jupyterapp?.shell?.currentWidget; return {condition}; }}",
            timeout=seconds * 1000,
            polling=200,
        )

    # ---- running and reading

    def run_all(self, timeout=600):
        """Run every cell, as Run > Run All Cells does, and wait until the kernel is idle again.

        timeout: seconds. Raises AssertionError when a cell fails (the notebook stops there).
        """
        self._js(
            "(app) => { window.ran = false;"
            " app.commands.execute('notebook:run-all-cells').finally(() => { window.ran = true; }); }"
        )
        self._wait_js("window.ran === true", timeout)
        self.wait_idle(timeout)
        failed = [cell for cell in self.cells() if any(out["output_type"] == "error" for out in cell["outputs"])]
        assert not failed, f"{self.name}: a cell failed: {_short(failed[0])}"
        waiting = [cell for cell in self.cells() if cell["code"] and cell["source"].strip() and not cell["count"]]
        assert not waiting, f"{self.name}: a cell did not run: {_short(waiting[0])}"

    def run_cell(self, index, timeout=600):
        """Run one cell and wait for it."""
        self._js(
            "(app, index) => { window.ran = false; const panel = app.shell.currentWidget;"
            " panel.content.activeCellIndex = index; panel.content.deselectAll();"
            " app.commands.execute('notebook:run-cell').finally(() => { window.ran = true; }); }",
            index,
        )
        self._wait_js("window.ran === true", timeout)
        self.wait_idle(timeout)

    def wait_idle(self, timeout=PATIENCE):
        """Wait until the kernel has nothing to do, and stays so long enough to have taken up what was just clicked."""
        end = time.monotonic() + timeout
        calm = 0
        while calm < 3:
            idle = self._js("(app) => app.shell.currentWidget.sessionContext.session.kernel.status") == "idle"
            calm = calm + 1 if idle else 0
            assert time.monotonic() < end, f"{self.name}: the kernel is still busy after {timeout} s"
            self.page.wait_for_timeout(100)

    def cells(self):
        """[{index, code (bool), source, count, outputs}] as they are now, outputs in nbformat's form."""
        return self._js(
            "(app) => app.shell.currentWidget.content.widgets.map((cell, index) => ({index,"
            " code: cell.model.type === 'code', source: cell.model.sharedModel.getSource(),"
            " count: cell.model.executionCount ?? null,"
            " outputs: cell.model.type === 'code' ? cell.model.outputs.toJSON() : []}))"
        )

    def index(self, text):
        """The index of the only cell whose source holds `text`."""
        found = [cell["index"] for cell in self.cells() if text in cell["source"]]
        assert len(found) == 1, f"{len(found)} cells hold {text!r}"
        return found[0]

    def assert_clean(self):
        """No error, nothing on stderr, no warning, every widget drawn, no complaint of the page's scripts."""
        for cell in self.cells():
            wrong = noise(cell["outputs"])
            assert not wrong, f"{self.name}: {wrong} from {_short(cell)}"
        self.assert_widgets_drawn()
        assert not self.complaints, f"{self.name}: {self.complaints[:3]}"

    def assert_widgets_drawn(self, seconds=PATIENCE):
        """Each output that is a widget has become one in the page."""
        shown = {cell["index"] for cell in self.cells()
                 if any(WIDGET_MIME in output.get("data", {}) for output in cell["outputs"])}  # fmt: skip
        for index in shown:
            views = self.cell(index).locator(".jp-OutputArea-output .jupyter-widgets")
            views.first.wait_for(state="attached", timeout=seconds * 1000)
        for word in ("Error displaying widget", "Loading widget...", "Error creating widget"):
            self.page.wait_for_function(
                "(word) => !document.querySelector('.jp-Notebook').innerText.includes(word)",
                arg=word,
                timeout=seconds * 1000,
            )
        return len(shown)

    # ---- finding

    def cell(self, which):
        """The page's element of a cell, given its index or text in its source."""
        index = which if isinstance(which, int) else self.index(which)
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, which):
        """The page's element that holds a cell's outputs."""
        return self.cell(which).locator(".jp-Cell-outputArea").first

    def output_text(self, which):
        """The text that a cell's outputs show now, widgets too."""
        return self.output(which).inner_text()

    def widget(self, text, kind=".jupyter-widgets"):
        """The innermost widget that holds `text`; kind: a CSS class, such as ".widget-hbox"."""
        return self.page.locator(f".jp-OutputArea-output {kind}").filter(has_text=text).last

    def button(self, label, within=None):
        """The widget button with this label (exactly). By its text: an icon's glyph counts as part of a button's name."""
        scope = within or self.page.locator(".jp-OutputArea-output")
        return scope.locator("button").filter(has_text=re.compile(rf"^\s*{re.escape(label)}\s*$")).last

    def _control(self, description):
        """The row of the control whose label is `description`."""
        label = self.page.locator(".jp-OutputArea-output .widget-label").filter(has_text=description)
        return label.last.locator("xpath=..")

    # ---- acting, as a person does

    def click(self, label, timeout=PATIENCE):
        """Click the button with this label, and wait until the kernel has answered."""
        self.button(label).click()
        self.wait_idle(timeout)

    def slider_value(self, description):
        """What the slider's read-out shows."""
        return self._control(description).locator(".widget-readout").inner_text()

    def set_slider(self, description, value, timeout=PATIENCE):
        """Type `value` into the slider's read-out, and wait until the kernel has answered."""
        readout = self._control(description).locator(".widget-readout")
        readout.click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(str(value))
        self.page.keyboard.press("Enter")
        self.wait_idle(timeout)

    def move_slider(self, description, steps, timeout=PATIENCE):
        """Move the slider with the arrow keys, `steps` to the right (to the left where negative)."""
        self._control(description).locator(".noUi-handle").focus()
        for _ in range(abs(steps)):
            self.page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
        self.wait_idle(timeout)

    def type_in(self, description, text, timeout=PATIENCE):
        """Replace what the text field or text area beside the label holds, and wait for the kernel."""
        field = self._control(description).locator("input, textarea").first
        field.fill(text)
        field.press("Tab")
        self.wait_idle(timeout)

    def choose(self, description, option, timeout=PATIENCE):
        """Choose an option of a drop-down list, and wait for the kernel."""
        self._control(description).locator("select").select_option(label=option)
        self.wait_idle(timeout)

    # ---- looking

    def theme(self, name):
        """Switch JupyterLab to "light" or "dark"."""
        self._js("(app, theme) => app.commands.execute('apputils:change-theme', {theme})", THEMES[name])
        wanted = "true" if name == "light" else "false"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{wanted}']", state="attached", timeout=PATIENCE * 1000)
        self.page.wait_for_timeout(300)  # fonts and colours fade in

    def screenshot(self, name, which=None, themes=("light", "dark")):
        """Write build/screenshots/NAME-THEME.png of the whole notebook, a cell (index or text) or an element."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        before, paths = self.page.viewport_size, []
        try:
            if which is None:
                self.page.set_viewport_size({"width": before["width"], "height": self._height()})
                element = self.page.locator(".jp-NotebookPanel-notebook:visible").first
            else:
                element = self.cell(which) if isinstance(which, (int, str)) else which
                element.scroll_into_view_if_needed()
            for theme in themes:
                self.theme(theme)
                paths.append(SCREENSHOTS / f"{name}-{theme}.png")
                element.screenshot(path=paths[-1], animations="disabled")
        finally:
            self.page.set_viewport_size(before)
            self.theme("light")
        return paths

    def _height(self):
        """Height of a window that shows the whole notebook, in pixels (Chromium draws no more than 16,384)."""
        inner = self.page.evaluate("() => document.querySelector('.jp-NotebookPanel-notebook .jp-WindowedPanel-outer,"
                                   " .jp-NotebookPanel-notebook').scrollHeight")  # fmt: skip
        return min(16_000, inner + 200)

    def close(self):
        """Close the page and end the kernel."""
        self.page.close()
        self.server.shut_kernels()


def noise(outputs):
    """What no student should see among a cell's outputs (an error, stderr, a warning), or None."""
    for output in outputs:
        text = "".join(output.get("text", ""))
        if output["output_type"] == "error":
            return f"{output['ename']}: {output['evalue']}"
        if output.get("name") == "stderr" or "Warning:" in text:
            return f"{output['name']}: {text[:500]}"
    return None


def _short(cell):
    source = cell["source"][:300]
    errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
    tail = f"\n{errors[0]['ename']}: {errors[0]['evalue']}" if errors else ""
    return f"cell {cell['index']}:\n{source}{tail}"


def without_outputs(source, target):
    """Copy a notebook without outputs and execution counts, as a student would open it."""
    notebook = json.loads(pathlib.Path(source).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    pathlib.Path(target).write_text(json.dumps(notebook), encoding="utf-8")


@contextlib.contextmanager
def browser(executable=None):
    """A Chromium without a window; executable: its path, else the first that is found."""
    from playwright.sync_api import sync_playwright

    path = executable or next(
        found for found in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if found
    )
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()
