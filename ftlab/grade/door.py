"""What both sides of the walls share: how they speak, and where things lie inside. Standard library only."""

import json
import socket

# Everything of the sandbox's own lies below one name that no system, home or data disk uses: Python, its packages and
# the course may lie anywhere (/tmp, /opt, /run, /scratch), and are shown where they are.
OWN = "/ftlab-sandbox"
SCRATCH = f"{OWN}/scratch"  # all that a kernel can write to: work (its working folder), home, tmp, shm
PACKAGE = f"{OWN}/package"  # what a kernel finds on its PYTHONPATH
ALIASES = {"/tmp": f"{SCRATCH}/tmp", "/dev/shm": f"{SCRATCH}/shm"}  # writable folders that programs expect: their content
PORTS = ("shell_port", "iopub_port", "stdin_port", "hb_port", "control_port")
_MOST = 1 << 20  # bytes of a message


def send(connection, message, descriptors=()):
    """Send a JSON message with open files over a SOCK_SEQPACKET socket."""
    socket.send_fds(connection, [json.dumps(message).encode()], list(descriptors))


def receive(connection):
    """(message, descriptors) from `connection`; (None, []) when the other side is gone."""
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, _MOST, 16)
    except ConnectionResetError:
        return None, []
    return (json.loads(data) if data else None), descriptors
