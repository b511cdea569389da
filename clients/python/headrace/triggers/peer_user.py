"""Which user is at the other end of a loopback connection, as the system's table of connections says.

The official runtime clients send no secret: they are told a host and a port, and one part of them takes no path
there. So a server on loopback knows its worker by the user whose socket the connection is.
"""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from pathlib import Path
from typing import Final

# Source: Linux, Documentation/networking/proc_net_tcp.rst.
_TABLE: Final = Path("/proc/net/tcp")
_ESTABLISHED: Final = "01"
_LOCAL, _REMOTE, _STATE, _USER = 1, 2, 3, 7
# The table is read in pieces, and an entry can slip from one to the next while others come and go.
_READS_MAX: Final = 3
_OWN_CONNECTION_TIMEOUT_S: Final = 1.0


@cache
def can_tell_users() -> bool:
    """Whether the system says whose a connection is, as a connection of this process to itself shows, once.

    Not every sandbox that has the table fills it in, and there all workers would be refused.
    """
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            with socket.create_connection(address, _OWN_CONNECTION_TIMEOUT_S) as own:
                return peer_user_id(own.getsockname(), address) == os.geteuid()
    except OSError:
        return False


def peer_user_id(peer: tuple[str, int], local: tuple[str, int]) -> int | None:
    """The user whose socket the far end of an IPv4 connection is; None if no process has it open. Raises OSError."""
    # At the far end it is the other way round. A socket that its process has closed belongs to nobody: it is in another
    # state, and the table shows 0 for its user.
    addresses = [_address(*peer), _address(*local)]
    for _ in range(_READS_MAX):
        for line in _TABLE.read_text("ascii").splitlines()[1:]:
            fields = line.split()
            if fields[_LOCAL : _REMOTE + 1] == addresses and fields[_STATE] == _ESTABLISHED:
                return int(fields[_USER])
    return None


def _address(host: str, port: int) -> str:
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
