"""Files seen from descriptors of their directories.

Also a program that looks at files for another process (lake/sizes.py). It is started for one batch: it imports nothing that it
could do without.
"""

from __future__ import annotations

import os
import stat
import sys
from itertools import takewhile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Self


class Folders:
    """Directories below a root, opened name by name: what is seen in one lies behind no symbolic link."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._names: list[str] = []
        self._opened = [os.open(root, os.O_PATH | os.O_DIRECTORY)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave(0)
        os.close(self._opened.pop())

    def differing(self, paths: list[str], sizes: list[int]) -> list[str]:
        """Those of the paths at which there is no regular file of this size, as far as can be seen from here."""
        wrong: list[str] = []
        known, at = None, -1
        for path, size in zip(paths, sizes, strict=True):
            folder, _, name = path.rpartition("/")
            try:
                if folder != known:
                    known = None
                    at = self._enter(folder.split("/"))
                    known = folder
                status = os.lstat(name, dir_fd=at)
                if status.st_size != size or not stat.S_ISREG(status.st_mode):
                    wrong.append(path)
            except (OSError, ValueError):
                wrong.append(path)
        return wrong

    def _enter(self, names: list[str]) -> int:
        """A descriptor of the directory; OSError where it is not there or a name leads elsewhere."""
        self._leave(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._names, names, strict=False))))
        for name in names[len(self._names) :]:
            if name in (".", ".."):
                raise NotADirectoryError(name)
            self._opened.append(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._opened[-1]))
            self._names.append(name)
        return self._opened[-1]

    def _leave(self, depth: int) -> None:
        """Close all that is deeper than ``depth`` names."""
        while len(self._names) > depth:
            self._names.pop()
            os.close(self._opened.pop())


def send(stream: IO[bytes], *parts: bytes) -> None:
    """Write parts to another process: their lengths in a line, then the parts."""
    stream.write(b" ".join(b"%d" % len(part) for part in parts) + b"\n" + b"".join(parts))
    stream.flush()


def received(stream: IO[bytes]) -> list[bytes]:
    """What send() wrote at the other end; nothing where that was closed. ValueError where it broke off."""
    lengths = [int(length) for length in stream.readline().split()]
    parts = [stream.read(length) for length in lengths]
    if [len(part) for part in parts] != lengths:
        raise ValueError("the other process broke off")
    return parts


def _serve(root: str) -> None:
    """The other process: answers until nothing more is asked."""
    with Folders(root) as folders:
        while asked := received(sys.stdin.buffer):
            text, numbers = asked
            wrong = folders.differing(text.decode().split("\0"), memoryview(numbers).cast("q").tolist())
            send(sys.stdout.buffer, "\0".join(wrong).encode())


if __name__ == "__main__":
    _serve(sys.argv[1])
