"""What runs in a student's kernel before anything of theirs: an audit hook, which nothing in Python can take back.

It refuses connections to anywhere, other programs, and reading below the folders of the course. It is a fence for
exercises, not a prison: whoever wants to break out of a Python process can. Run strangers' code in a container.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

CODE = '''
def _fence(forbidden, log):
    import os, sys, threading
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    inside = threading.local()
    programs = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn")

    def refuse(what, noted=True):
        if noted:
            os.write(descriptor, (what + "\\n").encode())
        raise PermissionError(what + " is not allowed while an assignment is graded")

    def hook(event, arguments):
        if getattr(inside, "busy", False):
            return
        inside.busy = True
        try:
            if event in ("open", "os.listdir", "os.scandir", "shutil.copyfile", "os.rename", "os.link", "os.symlink"):
                for path in arguments[:2]:
                    if isinstance(path, (str, bytes)):
                        real = os.path.realpath(os.fsdecode(path))
                        if any(real == f or real.startswith(f + os.sep) for f in forbidden):
                            refuse("reading " + os.fsdecode(path))
            elif event in ("socket.connect", "socket.sendto"):
                if isinstance(arguments[1], tuple):
                    refuse("a connection to %s" % (arguments[1][0],))
            elif event == "socket.getaddrinfo":
                refuse("looking up %s" % (arguments[0],))
            elif event in programs:
                refuse("starting a program", noted=False)
        finally:
            inside.busy = False

    sys.addaudithook(hook)


_fence(FORBIDDEN, LOG)
del _fence
'''


def code(forbidden: Sequence[Path], log: Path) -> str:
    """The cell that puts up the fence; attempts are written to `log`, a line each."""
    folders = json.dumps([str(folder.resolve()) for folder in forbidden])
    return CODE.replace("FORBIDDEN", folders).replace("LOG", json.dumps(str(log)))
