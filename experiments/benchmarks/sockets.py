"""Which addresses a process listens at, as Linux tells in /proc."""

import contextlib
import ipaddress
import os
from pathlib import Path

_LISTENS = "0A"


def listening(pid: int) -> set[str]:
    """ADDRESS:PORT of every TCP socket that a process listens at; empty if it is gone."""
    own = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                kind, _, inode = os.readlink(entry).partition(":")
                if kind == "socket":
                    own.add(inode.strip("[]"))
        tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    except OSError:
        return set()
    return {address for table in tables for inode, address in listeners(table) if inode in own}


def listeners(table: str) -> list[tuple[str, str]]:
    """Inode and ADDRESS:PORT of the listening sockets in a table as in /proc/net/tcp or tcp6."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return [(row[9], address_of(row[1])) for row in rows if row[3] == _LISTENS]


def address_of(text: str) -> str:
    """ADDRESS:PORT of hexadecimal words, each of them with its bytes in reverse."""
    words, port = text.split(":")
    packed = bytes.fromhex(words)
    ordered = b"".join(packed[start : start + 4][::-1] for start in range(0, len(packed), 4))
    address = ipaddress.ip_address(ordered)
    shown = f"[{address}]" if address.version == 6 else str(address)
    return f"{shown}:{int(port, 16)}"


def is_loopback(address: str) -> bool:
    """Whether an ADDRESS:PORT is reached from this machine only."""
    host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return (mapped or host).is_loopback
