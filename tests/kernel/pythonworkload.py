"""What ordinary Python programs do: threads, processes, sockets, descriptors of all kinds."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import socket
import subprocess
import tempfile


async def talk():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.close()


with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert sum(pool.map(int, range(9))) == 36
child = multiprocessing.Process(target=os.nice, args=(1,))
child.start()
child.join()
assert child.exitcode == 0
asyncio.run(talk())
assert subprocess.run(["true"], start_new_session=True, user=1, check=False).returncode == 0
with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
    source.write(b"text")
    source.flush()
    assert os.sendfile(target.fileno(), source.fileno(), 0, 4) == 4
    assert os.copy_file_range(source.fileno(), target.fileno(), 4, 0, 0) == 4
os.memfd_create("memory")
os.eventfd(0)
os.pidfd_open(os.getpid())
left, right = socket.socketpair()
socket.send_fds(left, [b"x"], [0])
socket.recv_fds(right, 1, 1)
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
