"""A class works at a real hub: ten students at once, what keeps them apart, and what survives.

The tests are steps of one story and run in this order. `make test-hub` makes what they need.
"""

import concurrent.futures
import contextlib
import http.server
import json
import os
import pathlib
import pwd
import signal
import statistics
import subprocess
import threading
import time

import pytest
import requests
import websocket
from hub.harness import PATIENCE, ROOT, memory_mib, processor_seconds, wait_for
from hub.student import Person

pytestmark = [pytest.mark.hub, pytest.mark.full, pytest.mark.timeout(3600)]

LAB = "01_autoregression"
WORK = f"ftlab-work/{LAB}.ipynb"
COUNTING = "import time\nfor i in range(3600): print(i); time.sleep(1)"
RUNNING = {}  # student's name: the id of the kernel that has run the lab


def all_at_once(work, people):
    """[work(person)] with a thread for each."""
    with concurrent.futures.ThreadPoolExecutor(len(people)) as pool:
        return list(pool.map(work, people))


# ---- coming in


def test_an_instructors_name_is_not_for_the_taking(school):
    thief = Person(school.hub.url, school.teacher.name, "a password of the thief")
    assert "Something went wrong" in thief.sign_up()
    assert not thief.log_in()
    assert "successful" in school.teacher.sign_up()
    assert school.teacher.log_in()
    assert school.teacher.hub_api("GET", "/user").json()["admin"]


def test_students_sign_up_and_wait_for_the_instructor(school):
    assert all("sent to the admin" in text for text in all_at_once(Person.sign_up, school.students))
    assert not any(all_at_once(Person.log_in, school.students)), "someone came in whom nobody admitted"
    first = school.students[0]
    assert first.authorize(first.name).status_code in (403, 404), "a student admitted himself"
    for person in school.students:
        assert school.teacher.authorize(person.name).status_code == 200
    assert all(all_at_once(Person.log_in, school.students))
    assert not first.hub_api("GET", "/user").json()["admin"]
    stranger = Person(school.hub.url, first.name, "not the right password")
    assert not stranger.log_in()


def test_guessing_a_password_is_stopped(school):
    victim = Person(school.hub.url, "not-a-student", "a long password of nobody")
    victim.sign_up()
    school.teacher.authorize(victim.name)
    for _ in range(5):
        assert not Person(school.hub.url, victim.name, "another guess").log_in()
    assert not victim.log_in(), "the right password came in after five wrong ones"
    school.teacher.hub_api("DELETE", f"/users/{victim.name}")


# ---- ten students at once


def test_all_get_a_server_at_once(school, show):
    all_at_once(Person.start_server, school.students)
    seconds = [person.ready_seconds for person in school.students]
    show("seconds from the click to JupyterLab's page", spread(seconds))
    servers = server_pids(school)
    mine = [servers[person.name] for person in school.students]
    show("processor seconds of a start", spread(map(processor_seconds, mine)))
    show("MiB (PSS) of a server before any kernel", spread(map(memory_mib, mine)))
    assert all(person.read(WORK)["cells"] for person in school.students), "the labs are not there"


def spread(values):
    """Figures for `show`."""
    values = [round(value, 1) for value in values]
    return {"students": len(values), "median": round(statistics.median(values), 1), "max": max(values)}


def test_all_run_lab_01_at_once(school, show):
    servers = server_pids(school)
    mine = [servers[person.name] for person in school.students]
    before, began = [processor_seconds(pid) for pid in mine], time.monotonic()
    all_at_once(run_lab, school.students)
    minutes = (time.monotonic() - began) / 60
    show("MiB (PSS) of a server with the kernel that has run lab 01", spread(map(memory_mib, mine)))
    spent = [processor_seconds(pid) - earlier for pid, earlier in zip(mine, before, strict=True)]
    show("processor seconds of lab 01 with few steps", spread(spent))
    show("lab 01 with few steps, all at once", {"students": len(mine), "minutes": round(minutes, 1), "cores": os.cpu_count()})
    show("MiB of a home after it", {"max": round(max(disk_mib(person) for person in school.students), 1)})


def disk_mib(person):
    """What a student's home holds, asked of a kernel."""
    code = "import pathlib; print(sum(f.stat().st_size for f in pathlib.Path.home().rglob('*') if f.is_file()))"
    with person.open_notebook(WORK) as kernel:
        return int(kernel.run(code)[0]["text"]) / 2**20


def run_lab(person):
    """Fill in lab 01's gaps, run each cell through the kernel's websocket, look at the results, save."""
    notebook = person.read(WORK)
    solved = json.loads((ROOT / "solutions" / f"{LAB}.ipynb").read_text(encoding="utf-8"))
    answers = {cell["id"]: "".join(cell["source"]) for cell in solved["cells"] if kind(cell) == "exercise"}
    assert len(answers) >= 5
    with person.open_notebook(WORK) as kernel:
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["source"] = answers.get(cell["id"], cell["source"])
                cell["outputs"] = kernel.run(cell["source"])
                failed = [output["evalue"] for output in cell["outputs"] if output["output_type"] == "error"]
                assert not failed, f"{person.name}: cell {cell['id']}: {failed}"
        kernel.run(f"mine = {person.name!r}")
        RUNNING[person.name] = kernel.id
    person.write(WORK, notebook)
    checks = {cell["id"]: text_of(cell) for cell in notebook["cells"] if kind(cell) == "check"}
    assert len(checks) == len(answers)
    assert all("right" in text.lower() for text in checks.values()), checks
    claims = [output["data"][mime] for cell in notebook["cells"] if kind(cell) == "result"
              for output in cell["outputs"] for mime in output.get("data", {}) if "claim" in mime]  # fmt: skip
    values = {claim["id"]: claim["value"] for claim in claims}
    # With few steps no claim is judged; these two are exact at any size.
    assert (values["C03"], values["C04"]) == (0, 1), values


def kind(cell):
    """What a cell of a lab is: exercise, check, result, ..."""
    return cell["metadata"].get("ftlab", {}).get("kind")


def text_of(cell):
    """All text that a cell's outputs show."""
    found = []
    for output in cell["outputs"]:
        found += [output["text"]] if "text" in output else [str(value) for value in output.get("data", {}).values()]
    return "\n".join("".join(part) for part in found)


def server_pids(school):
    """{name: process id of the student's server}, as the hub's own records say (an instructor may see them)."""
    import sqlite3

    path = pathlib.Path(school.hub.settings["STATE"]) / "jupyterhub.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
        rows = base.execute("select users.name, spawners.state from spawners join users on users.id = spawners.user_id")
        states = {name: json.loads(state or "{}") for name, state in rows}
    return {name: state["pid"] for name, state in states.items() if state.get("pid")}


# ---- walls


def test_nobody_reaches_anothers_server(school):
    mine, other = school.students[:2]
    assert mine.open_server(other.name).status_code == 403
    assert mine.api("GET", "/contents", other.name).status_code in (403, 404)
    assert mine.api("GET", f"/contents/{WORK}", other.name).status_code in (403, 404)
    assert mine.hub_api("DELETE", f"/users/{other.name}/server").status_code in (403, 404)
    assert mine.hub_api("GET", f"/users/{other.name}").status_code in (403, 404)
    with pytest.raises(websocket.WebSocketBadStatusException):
        mine.websocket(f"/kernels/{RUNNING[other.name]}/channels", other.name)
    # The same with no hub between: the server's own port, which all processes of the machine can reach.
    port = listening_port(server_pids(school)[other.name])
    for path in (f"/user/{other.name}/api/contents", f"/user/{other.name}/api/kernels"):
        answer = mine.session.get(f"http://127.0.0.1:{port}{path}", allow_redirects=False, timeout=60)
        assert answer.status_code in (302, 403), path
    nobody = requests.Session()
    nobody.trust_env = False
    assert nobody.get(f"{school.hub.url}/user/{other.name}/api/contents", timeout=60).status_code in (403, 404)


def listening_port(pid):
    """The TCP port at which a student's server listens."""
    import psutil

    ports = [link.laddr.port for link in psutil.Process(pid).net_connections("tcp") if link.status == psutil.CONN_LISTEN]
    return ports[0]


def test_nobody_reads_anothers_files(school, show):
    if school.no_walls:
        pytest.skip(f"nothing stands between the students' files in this run: {school.no_walls}")
    mine, other = school.students[:2]
    home = pwd.getpwnam(other.name).pw_dir
    pid = server_pids(school)[other.name]
    attempts = {
        "list the home": f"__import__('os').listdir({home!r})",
        "read the notebook": f"open({f'{home}/{WORK}'!r}).read()",
        "write into the home": f"open({f'{home}/ftlab-work/mine'!r}, 'w')",
        "read the server's secrets": f"open('/proc/{pid}/environ', 'rb').read()",
        "read the server's memory": f"open('/proc/{pid}/mem', 'rb')",
        "stop the server": f"__import__('os').kill({pid}, 15)",
        "read the hub's state": f"open({str(pathlib.Path(school.hub.settings['STATE']) / 'jupyterhub.sqlite')!r}, 'rb')",
        "read the instructors' secret": f"open({school.hub.settings['ADMIN_PASSWORD_FILE']!r}).read()",
    }
    with mine.open_notebook(WORK) as kernel:
        for what, code in attempts.items():
            (output,) = [out for out in kernel.run(code) if out["output_type"] != "stream"]
            assert output.get("ename") == "PermissionError", f"a student could {what}: {output}"
        # The test itself would notice: the same on one's own.
        assert not [out for out in kernel.run("__import__('os').listdir('.')") if out["output_type"] == "error"]
    show("attempts on another student, all refused", {"count": len(attempts)})


def test_a_cell_finds_the_courses_programs(school):
    with school.students[0].open_notebook(WORK) as kernel:
        assert "profile   cpu" in str(kernel.run("!ftlab doctor"))


def test_the_instructor_sees_a_students_work(school):
    student = school.students[0]
    assert school.teacher.open_server(student.name).status_code == 200
    notebook = school.teacher.read(WORK, student.name)
    assert any(cell.get("outputs") for cell in notebook["cells"])


# ---- what survives


def test_a_killed_server_comes_back_with_the_work(school):
    person = school.students[0]
    before, pid = person.read(WORK), server_pids(school)[person.name]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not person.hub_api("GET", f"/users/{person.name}").json()["servers"], PATIENCE, "the hub notices")
    person.start_server()
    assert server_pids(school)[person.name] != pid
    after = person.read(WORK)
    assert after == before
    assert any(cell.get("outputs") for cell in after["cells"])


def test_the_hub_is_upgraded_while_students_work(school):
    """Stopped and started again: kernels go on, sessions stay logged in; even with no hub, notebooks answer and save."""
    person = school.students[1]
    with person.open_notebook(WORK) as kernel:
        assert "'text/plain': " in str(kernel.run("mine"))
        school.hub.stop()
        assert person.page("/hub/login").status_code == 503, "the hub was to be away"
        assert person.name in str(kernel.run("mine")), "the kernel lost its memory while no hub was there"
        notebook = person.read(WORK)
        notebook["metadata"]["saved"] = "while the hub was away"
        person.write(WORK, notebook)
        school.hub.start()
        assert person.name in str(kernel.run("mine"))
    assert person.read(WORK)["metadata"]["saved"] == "while the hub was away"
    assert person.open_server().status_code == 200
    assert person.hub_api("GET", "/user").status_code == 200


# ---- a course in a repository


class GitOverHttp(http.server.BaseHTTPRequestHandler):
    """The repositories below `folder`, by git's own HTTP backend: nbgitpuller's shallow clones need more than plain files."""

    folder = None

    def do_GET(self):
        """Ask the backend, by CGI."""
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        asked = {
            "GIT_PROJECT_ROOT": str(self.folder), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
            "REQUEST_METHOD": self.command, "CONTENT_LENGTH": str(length), "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }  # fmt: skip
        done = subprocess.run(
            ["git", "http-backend"], input=self.rfile.read(length), env=os.environ | asked, capture_output=True, check=True
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def course(tmp_path):
    """A course's repository behind HTTP: (address, publish(name=text of labs/name.txt, ...))."""
    work, bare = tmp_path / "work", tmp_path / "served" / "course.git"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main", work], check=True)
    subprocess.run([*git, "init", "--quiet", "--bare", "--initial-branch=main", bare], check=True)

    def publish(**files):
        for name, text in files.items():
            (work / "labs").mkdir(exist_ok=True)
            (work / "labs" / f"{name}.txt").write_text(text)
        subprocess.run([*git, "-C", work, "add", "."], check=True)
        subprocess.run([*git, "-C", work, "commit", "--quiet", "--message", "a release"], check=True)
        subprocess.run([*git, "-C", work, "push", "--quiet", bare, "main"], check=True)

    handler = type("Handler", (GitOverHttp,), {"folder": bare.parent})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/course.git", publish
    finally:
        server.shutdown()
        server.server_close()


def test_a_courses_link_brings_its_files_and_keeps_the_students(school, course):
    address, publish = course
    lines = [f"line {number}\n" for number in range(9)]
    publish(first="first\n", second="".join(lines))
    school.hub.restart(COURSES=f"winter={address}")
    person = school.students[0]
    home = person.page("/hub/home").text
    link = home.partition('href="')[2] and next(part.split('"')[0] for part in home.split('href="') if "git-pull" in part)
    link = link.replace("&amp;", "&")
    assert link.startswith("/hub/user-redirect/git-pull?")
    pull(person, link)
    assert person.read("winter/labs/first.txt") == "first\n"
    body = {"type": "file", "format": "text", "content": "my own work\n"}
    person.api("PUT", "/contents/winter/labs/first.txt", json=body).raise_for_status()
    mine = "".join(["mine\n", *lines[1:]])
    person.api("PUT", "/contents/winter/labs/second.txt", json=body | {"content": mine}).raise_for_status()
    publish(first="first, corrected\n", second="".join([*lines[:8], "corrected\n"]), third="new\n")
    pull(person, link)
    assert person.read("winter/labs/first.txt") == "my own work\n", "the student's work was overwritten"
    merged = "".join(["mine\n", *lines[1:8], "corrected\n"])
    assert person.read("winter/labs/second.txt") == merged, "what else is new in the file is not there"
    assert person.read("winter/labs/third.txt") == "new\n"


def pull(person, link):
    """Follow a course's link: nbgitpuller's page, and the stream that this page opens."""
    page = person.page(link)
    assert page.status_code == 200 and f"/user/{person.name}/git-pull" in page.url
    query = dict(requests.compat.urlparse(page.url)._asdict())["query"]
    fields = dict(requests.compat.unquote(part).split("=", 1) for part in query.replace("+", " ").split("&"))
    asked = {"repo": fields["repo"], "branch": fields["branch"], "targetpath": fields["targetPath"]}
    answer = person.page(f"/user/{person.name}/git-pull/api", params=asked)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1]["phase"] == "finished", events[-1]


# ---- the end of the day


def test_idle_servers_are_stopped_and_one_at_work_is_not(school):
    """The last student runs a cell that prints now and then; the others went away."""
    *others, busy = school.students
    away, pid = others[-1], server_pids(school)[busy.name]
    with busy.open_notebook(WORK) as kernel:
        worker = threading.Thread(target=kernel.run, args=(COUNTING,), daemon=True)
        worker.start()
        school.hub.restart(IDLE_SECONDS="40")
        wait_for(
            lambda: not any(running(school, person) for person in others), PATIENCE, "the idle servers are stopped", every=2
        )
        seen = culler_rounds(school)
        wait_for(lambda: culler_rounds(school) >= seen + 2, PATIENCE, "the culler's next rounds")
        assert running(school, busy) and server_pids(school)[busy.name] == pid, "the server at work was stopped, too"
        school.hub.restart(IDLE_SECONDS="0")
        busy.api("POST", f"/kernels/{kernel.id}/interrupt").raise_for_status()
        worker.join(PATIENCE)
    away.start_server()
    assert any(cell.get("outputs") for cell in away.read(WORK)["cells"]), "the work is gone"
    # A setting that was changed since the server's last start holds from its next: a hub's one course is its first page.
    assert "/git-pull?" in away.page(f"/user/{away.name}/").url
    assert "/git-pull?" not in busy.page(f"/user/{busy.name}/").url


def culler_rounds(school):
    """How often a culler has asked the hub who is there."""
    return sum("GET /hub/api/users?" in line and "(culler@" in line for line in school.hub.log().splitlines())


def running(school, person):
    """Whether the hub has a server of this person's."""
    return bool(school.teacher.hub_api("GET", f"/users/{person.name}").json()["servers"])


# ---- when a student leaves


def test_a_deleted_student_is_gone_from_the_hub(school):
    person = school.students[2]
    base = pathlib.Path(school.hub.settings["STATE"]) / "jupyterhub.sqlite"
    assert {"users", "users_info"} <= set(rows_with(base, person.name))
    assert school.teacher.hub_api("DELETE", f"/users/{person.name}/server").status_code in (202, 204)
    wait_for(lambda: not running(school, person), PATIENCE, "the server stops")
    assert school.teacher.hub_api("DELETE", f"/users/{person.name}").status_code == 204
    assert not person.log_in()
    assert rows_with(base, person.name) == []


def rows_with(path, name):
    """The tables of the hub's records in which a row still holds `name`."""
    import sqlite3

    found = []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
        for (table,) in base.execute("select name from sqlite_master where type = 'table'").fetchall():
            if any(name in map(str, row) for row in base.execute(f"select * from {table}")):
                found.append(table)
    return found
