"""Which process has a folder, and whether it lives."""

import dataclasses
import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Self


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process that has a folder.

    Attributes:
        host: name of its machine.
        process: its number there.
        started: its start in the kernel's count, because numbers are used again; None if unknown.
        kernel: in which its number means something: a start of a machine, and a container.
        since: when it locked the folder, for the reader.
        token: tells it from every other lock.
    """

    host: str
    process: int
    started: int | None
    kernel: str
    since: str
    token: str

    @classmethod
    def this(cls) -> Self:
        """This process, from now on."""
        own, now = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z")
        host, token = socket.gethostname(), secrets.token_hex(8)
        return cls(host, own, _start_of(own), _kernel(), now, token)

    @classmethod
    def read(cls, content: bytes) -> Self | None:
        """What `written` wrote; None if it is not whole."""
        try:
            owner = cls(**json.loads(content))
        except (ValueError, TypeError, RecursionError):
            return None
        return owner if type(owner.process) is int and owner.process > 0 else None

    def written(self) -> bytes:
        """As a line of JSON."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    def lives(self) -> bool | None:
        """Whether the process is there; None if that cannot be told from here."""
        if self.kernel != _kernel():
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's: it is there
        found = _start_of(self.process)
        return None if found is None or self.started is None else found == self.started


def named(owner: Owner | None) -> str:
    """An owner in words; None is one whose lock is not whole."""
    if owner is None:
        return "a process that is just starting"
    return f"process {owner.process} on {owner.host} (since {owner.since})"


def _kernel() -> str:
    """In which numbers of processes mean something: this start of this machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # another system than Linux
        return socket.gethostname()


def _start_of(process: int) -> int | None:
    """When a process was started, in the kernel's count; -1 if it has ended, None if unknown."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return None
    # the name of the program, in parentheses, may hold anything
    fields = text.rpartition(")")[2].split()
    return -1 if fields[0] in "ZX" else int(fields[19])
