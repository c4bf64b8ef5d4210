"""A stand-in for the Hugging Face Hub's HTTP interface on loopback, as far as the real client asks it, and its faults.

Follows what huggingface_hub 1 and 2 request: /api/models and /api/datasets (a repository's record, its tree), and
/resolve/ (a file: HEAD for its hash and size, GET with ranges).
"""

import contextlib
import hashlib
import http.server
import json
import re
import socket
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the stand-in holds, and how it fails.

    repositories: {"owner/name": {file name: bytes}}, of models and data sets alike.
    faults: {part of a path: fault}; a fault is a function of (handler, send) that answers instead, or as a status.
    requests: what was asked, as "GET /path" with " bytes=..." where a range was.
    well: set at the end of a test; what hangs goes on then, and no thread is left to ask another test's stand-in.
    """

    def __init__(self, repositories):
        self.repositories, self.faults, self.requests = repositories, {}, []
        self.well = threading.Event()

    def asked(self, part, method="GET"):
        return [line for line in self.requests if line.startswith(method) and part in line]


def record(name, files):
    """A repository's record as the API gives it: siblings with size and hashes. Binary files are in LFS."""
    siblings = []
    for file, data in files.items():
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        siblings.append({"rfilename": file, "size": len(data), "blobId": blob})
        if in_lfs(file):
            siblings[-1]["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "private": False, "gated": False, "disabled": False,
            "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}  # fmt: skip


def in_lfs(file):
    return file.endswith((".safetensors", ".bin", ".parquet"))


def tree(files):
    """The files as the API's tree lists them."""
    entries = []
    for sibling in record("", files)["siblings"]:
        entry = {"type": "file", "path": sibling["rfilename"], "size": sibling["size"], "oid": sibling["blobId"]}
        if "lfs" in sibling:
            entry["lfs"] = {"oid": sibling["lfs"]["sha256"], "size": sibling["size"], "pointerSize": 134}
        entries.append(entry)
    return entries


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None

    def do_HEAD(self):
        self._answer()

    do_GET = do_POST = do_HEAD

    def _answer(self):
        asked = self.headers.get("Range", "")
        self.hub.requests.append(" ".join(filter(None, (self.command, self.path, asked))))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = next((fault for part, fault in self.hub.faults.items() if part in self.path), None)
        fault = None if self.hub.well.is_set() else fault
        with contextlib.suppress(ConnectionError):
            fault(self) if fault else self.truth()

    def truth(self):
        """The right answer."""
        api = re.match(r"/api/(?:models|datasets)/([^/?]+/[^/?]+)(?:/(revision|tree|paths-info)/[^/?]+)?", self.path)
        file = re.match(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/[^/]+/([^?]+)", self.path)
        files = self.hub.repositories.get((api or file)[1]) if api or file else None
        if files is None:
            return self.refuse(404, "RepoNotFound")
        if api and api[2] == "tree":
            return self.json(tree(files))
        if api and api[2] == "paths-info":
            return self.json([entry for entry in tree(files) if entry["path"] in json.loads(self.body)["paths"]])
        if api:
            return self.json(record(api[1], files))
        if file[2] not in files:
            return self.refuse(404, "EntryNotFound")
        self.file(file[2], files[file[2]])

    def json(self, value):
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status, code=None):
        self.send(status, b'{"error": "no"}', {"Content-Type": "application/json"} | ({"X-Error-Code": code} if code else {}))

    def file(self, name, data, sent=None):
        """Answer with a file, or the part that was asked for. sent: the bytes that go out instead of `data`."""
        (sibling,) = record("", {name: data})["siblings"]
        etag = sibling["lfs"]["sha256"] if "lfs" in sibling else sibling["blobId"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        sent = data if sent is None else sent
        first = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if first:
            start, end = int(first[1]), int(first[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            return self.send(206, sent[start:end + 1], headers)
        self.send(200, sent, headers)

    def send(self, status, body, headers, length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.write(body)

    def write(self, body):
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served(hub):
    """The stand-in's address while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        hub.well.set()
        for thread in [thread for thread in threading.enumerate() if thread.name == "ftlab-online"]:
            thread.join(30)
        server.shutdown()
        server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def handle_error(self, request, client_address):
        """A client that hangs up is what these tests are about."""


# ---- faults


def status(number, code=None):
    """Every such request is refused with this status (and the Hub's code for the reason)."""
    return lambda handler: handler.refuse(number, code)


def black_hole():
    """No answer while the test lasts."""

    def answer(handler):
        handler.hub.well.wait()
        handler.truth()

    return answer


def drip(pause, after=0):
    """The right answer, whose body after `after` bytes comes one byte a `pause`."""

    def answer(handler):
        def write(body):
            handler.wfile.write(body[:after])
            for byte in body[after:]:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                handler.hub.well.wait(pause)

        handler.write = write
        handler.truth()

    return answer


def cut(after, times=1):
    """The connection breaks after `after` bytes of the body, the first `times` times that it is asked for."""
    left = [times]

    def answer(handler):
        def write(body):
            if left[0] > 0:
                left[0] -= 1
                handler.wfile.write(body[:after])
                handler.wfile.flush()
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
            else:
                handler.wfile.write(body)

        handler.write = write
        handler.truth()

    return answer


def damaged(data):
    """These bytes come in the place of the file, with its hash and size in the headers as if they were right."""

    def answer(handler):
        _, owner, name, _, _, file = handler.path.split("?")[0].split("/")
        handler.file(file, handler.hub.repositories[f"{owner}/{name}"][file], sent=data)

    return answer
