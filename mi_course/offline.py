"""The network switched off, to show that the course needs none after installation.

>>> from pathlib import Path
>>> from mi_course import offline
>>> offline.steady_environment(Path("build"))["OMP_NUM_THREADS"]
'1'
"""

import os
import socket
from pathlib import Path

from mi_course.files import write

HERE = ("127.", "::1", "localhost", "0.0.0.0")

# One thread and fixed hashes, quiet bars and no hub: both where notebooks are stored and where they are compared.
STEADY = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}

STARTUP = """\
from mi_course.offline import cut_network

cut_network()
del cut_network
"""


def cut_network() -> None:
    """From now on this process reaches only its own machine; anything else raises `OSError`.

    Jupyter's kernels talk over loopback and local sockets, which stay open.
    """
    if getattr(socket, "mi_course_cut", False):
        return
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guard(host) -> None:
        if isinstance(host, bytes):
            host = host.decode()
        if isinstance(host, str) and host and not host.startswith(HERE):
            raise OSError(f"The network is switched off here, and something asked for {host}.")

    def guarded_connect(self, address):
        guard(address[0] if isinstance(address, tuple) else None)
        return connect(self, address)

    def guarded_connect_ex(self, address):
        guard(address[0] if isinstance(address, tuple) else None)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host, *args, **kwargs):
        guard(host)
        return getaddrinfo(host, *args, **kwargs)

    socket.socket.connect, socket.socket.connect_ex = guarded_connect, guarded_connect_ex
    socket.getaddrinfo, socket.mi_course_cut = guarded_getaddrinfo, True


def steady_environment(folder: Path) -> dict[str, str]:
    """Environment for kernels: `STEADY`, no network, no personal settings. `folder` receives
    an IPython profile whose start-up file cuts the network.
    """
    startup = folder.resolve() / "profile_default" / "startup" / "00-offline.py"
    if not startup.exists() or startup.read_text() != STARTUP:
        write(startup, STARTUP)
    return {
        **os.environ,
        **STEADY,
        "IPYTHONDIR": str(folder.resolve()),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
