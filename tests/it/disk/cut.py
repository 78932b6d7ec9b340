"""Takes the power from a mounted ext4: drops its page cache and its uncommitted journal.

Usage: cut.py MOUNT DATA AIM COUNT DELAY_US
After a line on standard input it watches the data directory for COUNT changes of the kind AIM, then waits DELAY_US more.
A second line, or ten seconds, make it cut without such a change. It says when it is about to, waits for a line that it
may, and says when it did. A sync that was under way may then still report success to its process, which no real power
cut would let anyone hear: what was said after that time does not count.
"""
import fcntl
import glob
import os
import select
import struct
import sys
import time

EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NO_LOG_FLUSH = 2

mount, data, aim, count, delay_us = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])


def names(pattern):
    return set(glob.glob(os.path.join(data, pattern)))


def stamp(path):
    try:
        return os.stat(os.path.join(data, path)).st_mtime_ns
    except OSError:
        return 0


LOOKS = {
    "now": lambda: 0,
    "segment": lambda: max(names("wal/*.wal"), default=""),
    "purge": lambda: min(names("wal/*.wal"), default=""),
    "flush": lambda: (stamp("state/redo-0"), stamp("state/redo-1")),
    "snapshot": lambda: tuple(sorted(names("snapshots/*/partial"))),
    "kept": lambda: tuple(sorted(names("snapshots/*/*.snapshot"))),
}

root = os.open(mount, os.O_RDONLY)
print("waiting", flush=True)
sys.stdin.readline()
look, why = LOOKS[aim], "now"
seen, deadline = look(), time.monotonic() + 10
while time.monotonic() < deadline:
    if select.select([sys.stdin], [], [], 0.0003)[0]:
        break
    now = look()
    if now != seen:
        seen, count = now, count - 1
        if count <= 0:
            why = aim
            break
time.sleep(delay_us / 1e6)
print("about", flush=True)
sys.stdin.readline()
at = time.time_ns()
fcntl.ioctl(root, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
print("cut", at, why, flush=True)
