"""`python -S bound.py PID FILES`: bounds how many files the scratch folder, and /dev/shm, of a process in bubblewrap may hold.

bubblewrap can bound a tmpfs in bytes only. So this goes into the mount namespace of PID, by way of the user namespace that
owns it (the one who made that may), and mounts each once more, with a bound. In a process of its own: who has threads
cannot change to another user namespace. Loaded by itself, without ftlab.
"""

import fcntl
import os
import sys

import door
import namespaces

GET_OWNER = 0xB701  # ioctl NS_GET_USERNS: the user namespace to which another one belongs


def main():
    pid, files = sys.argv[1:]
    mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    owner = fcntl.ioctl(mounts, GET_OWNER)
    if os.fstat(owner).st_ino != os.stat("/proc/self/ns/user").st_ino:
        namespaces.enter(owner, namespaces.NEWUSER)
    namespaces.enter(mounts, namespaces.NEWNS)
    # /tmp is a file system of its own where Python is shown below it, else a link into the scratch folder.
    for folder in (door.SCRATCH, "/dev/shm", *([] if os.path.islink("/tmp") else ["/tmp"])):
        namespaces.mount(None, folder, flags=namespaces.REMOUNT | namespaces.NOSUID | namespaces.NODEV,
                         options=f"nr_inodes={files}")  # fmt: skip


if __name__ == "__main__":
    main()
