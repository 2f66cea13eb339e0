"""
The messages between supervisor, launcher and container: JSON objects in SOCK_SEQPACKET packets.

To the launcher, on its control socket:

    {"launch": {"files": [n, ...], "namespaces": [name, ...]}}
                                descriptors: a file that holds the plan, the status socket, the command's files (`files`
                                says which numbers they have there), namespaces to join
    {"adopt": true}             descriptor: the pidfd of a container whose launcher died
    {"remember": [[kind, path], ...]}
                                remove these if the supervisor dies; {"forget": ...} undoes it
    end of file                 the supervisor is gone: kill and remove what is left, and exit

To the supervisor, on the status socket of each process:

    {"pid": n, "times": [t, t, t]}
                                descriptor: the pidfd. From the launcher, all others from the process. The times are
                                when it heard of this, had made the holder's namespaces, had cloned; monotonic clock
    {"orphaned": true}          the launcher died before it let the process go, which any packet does now; whose pid
                                has not been sent is ended
    {"forked": n}               descriptor: the pidfd of a child, also the supervisor's, that goes on with the plan once
                                any packet is sent; the process itself ends then
    {"barrier": name}           waits for any packet; the barrier "ready" comes last, before the command, and may be
                                answered by {"files": [n, ...]} with as many descriptors: these numbers of the command's
                                become others than those that came with the plan
    {"opened": what}            descriptor: the master of the pseudo-terminal ("terminal"), or a "socket"
    {"done": index, "after": s, "seconds": s}
                                if the plan says `trace`: a step has been done, when and how long it took, in seconds
                                since the process was let go (its own clock may be another than the supervisor's)
    {"failed": {"step": index | "clone" | "holder" | "execute", "errno": n | null, "message": text}}
                                and "child", the pid of a process that was cloned, but could not be announced
    {"started": true}           from the init; without one, end of file says it
    {"exited": status}          of the command, as of waitpid(2), from the init
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from typing import Any

#: Larger than any message; a longer packet is cut off, and is then no JSON.
MAX_PACKET = 65536
MAX_DESCRIPTORS = 32


def encode(message: dict[str, Any]) -> bytes:
    """A message as one packet."""
    return json.dumps(message).encode()


def send(channel: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """Send one message, with descriptors."""
    socket.send_fds(channel, [encode(message)], list(descriptors))


def tell(channel: socket.socket, message: dict[str, Any]) -> None:
    """Send one message, unless nobody listens any more."""
    with contextlib.suppress(OSError):
        send(channel, message)


def receive(channel: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Receive one message and its descriptors (close-on-exec); None at end of file."""
    # Not socket.recv_fds, which ignores its flags: a descriptor without close-on-exec would reach the command.
    space = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
    packet, ancillary, _, _ = channel.recvmsg(MAX_PACKET, space, socket.MSG_CMSG_CLOEXEC)
    return decode(packet), [fd for message in ancillary for fd in descriptors_of(message)]


def decode(packet: bytes) -> dict[str, Any] | None:
    """The message of a packet; None for the empty one, which is the end of file; what is none is an empty message."""
    if not packet:
        return None
    try:
        # Decoded here, since json would try other encodings on bytes, and import them.
        message = json.loads(packet.decode())
    except (ValueError, RecursionError):
        message = None
    return message if isinstance(message, dict) else {}


def descriptors_of(ancillary: tuple[int, int, bytes]) -> list[int]:
    """The descriptors in an ancillary message, unix(7)."""
    level, kind, data = ancillary
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        return []
    return [fd for (fd,) in struct.iter_unpack("=i", data[: len(data) // 4 * 4])]
