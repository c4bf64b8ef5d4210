"""What runs inside the walls: a locked-down process that becomes one IPython kernel.

A kernel forked from the warmed process calls `become_kernel`; a cold one runs this file as a script, which first gets
its order through a socket. Loaded by itself, without ftlab: the third-party libraries alone may be in memory here.

The kernel never makes a file outside its scratch folder, not even for its sockets: the manager listens on them and hands
the listening descriptors in (ZMQ_USE_FD), so that nothing of the outside is writable from here.
"""

import contextlib
import importlib
import json
import os
import random
import signal
import socket
import sys

import door
import namespaces


def lock_down(limits):
    """Give up everything that this process could use against others; for good, and for all its children."""
    namespaces.limit_resources(limits["processes"], limits["scratch_mib"] << 20, limits["data_mib"])
    namespaces.drop_capabilities()
    namespaces.no_new_privileges()
    namespaces.install(namespaces.deny_list())
    namespaces.dumpable(True)  # to use its own /proc/self; there is nobody else in here to look into it
    # Where memory runs out, this process goes first.
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def become_kernel(order, listeners):
    """Run the kernel that `order` describes on the `listeners` (in the order of PORTS); never returns."""
    with contextlib.suppress(PermissionError):  # it leads its group already: a container's init has seen to that
        os.setsid()
    _close_all_but(listeners)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["environment"])
    enter()
    sys.path[:1] = ["", order["package"]] if order["package"] else [""]  # in the place of these scripts' folder
    sys.argv = ["kernel"]
    for name in ("door", "inside", "namespaces"):
        sys.modules.pop(name, None)
    application = _application(order["connection"], listeners, f"{door.SCRATCH}/home")
    _seed(order["limits"]["threads"])  # last: imports draw random numbers, too
    application.start()
    os._exit(0)


def enter():
    """Make the folders of the empty scratch folder, and go to work there."""
    for name in ("home", "tmp", "work", "shm"):
        os.makedirs(f"{door.SCRATCH}/{name}", exist_ok=True)
    os.chdir(f"{door.SCRATCH}/work")


def _close_all_but(kept):
    """No open file of the processes before this one; standard input, output and error lead nowhere."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)


def _seed(threads):
    """The same start for every kernel: a student's unseeded code then gives the same result twice.

    hash() of a string is the same in all kernels, too (PYTHONHASHSEED=0).
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("numpy").random.seed(0)
        torch = importlib.import_module("torch")  # a cold kernel's too: by itself it starts from chance
        torch.manual_seed(0)
        torch.set_num_threads(threads)
    random.seed(0)


def _application(connection, listeners, home):
    """An initialised IPKernelApp whose sockets are the `listeners`."""
    sys.modules.setdefault("debugpy", None)  # a debugger would open a port, and takes 0.3 s to import
    import zmq
    from ipykernel.heartbeat import Heartbeat
    from ipykernel.kernelapp import IPKernelApp

    given = dict(zip([connection[name] for name in door.PORTS], listeners))

    class GivenHeartbeat(Heartbeat):
        def _try_bind_socket(self):
            self.socket.setsockopt(zmq.USE_FD, given[self.port])
            return self.socket.bind(f"ipc://{self.ip}-{self.port}")

    class KernelApp(IPKernelApp):
        def _try_bind_socket(self, s, port):
            s.setsockopt(zmq.USE_FD, given[port])
            s.bind(f"ipc://{self.ip}-{port}")
            return port

        def init_control(self, context):
            super().init_control(context)
            # It looks for the shell's socket by a path that exists outside only, and is for the debugger only.
            self.debug_shell_socket.close()

        def init_heartbeat(self):
            self.heartbeat = GivenHeartbeat(zmq.Context(), (self.transport, self.ip, self.hb_port))
            self.heartbeat.start()

    file = f"{home}/connection.json"
    with open(file, "w") as handle:
        json.dump(connection, handle)
    app = KernelApp.instance(connection_file=file)
    app.initialize(["--HistoryManager.enabled=False"])  # no database in the scratch folder
    return app


def main():
    """The cold kernel's way in: `inside.py WAY`, an inherited socket's number or a path to connect to."""
    way = sys.argv[1]
    if way.isdigit():
        connection = socket.socket(fileno=int(way))
    else:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(way)
    door.send(connection, {"here": True})  # the mounts stand: the other side may bound them further
    order, listeners = door.receive(connection)
    if order is None:
        sys.exit("the other side of the door is gone")
    if order["user"] is not None:
        namespaces.become(order["user"])
    lock_down(order["limits"])
    door.send(connection, {"kernel": True}, [os.pidfd_open(os.getpid())])
    become_kernel(order, listeners)


if __name__ == "__main__":
    main()
