"""Which of many files are not where they should be with their sizes, seen from descriptors of their directories.

The interpreter's lock lets a second thread that does this wait for longer than it works. So a large batch is shared with a
second process, which runs this file and imports nothing else of the lake.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import IO, Self

#: Files of which sizes are asked for at once; so many that a second process, which takes 20 ms to start, is worth it.
AT_ONCE, SHARED = 5_000, 200_000
#: Paths, and the size that each should have.
Files = tuple[list[str], list[int]]


def differing(root: Path, count: int, files: Callable[[int, int], Files]) -> list[str]:
    """Those of ``count`` files, given by ``files(first, so many)``, that Folders.differing() says are not as they should be."""
    wrong: list[str] = []
    firsts = deque(range(0, count, AT_ONCE))
    with Folders(root) as folders, ThreadPoolExecutor(1, thread_name_prefix="sizes") as pool:
        helper = pool.submit(_elsewhere, root, firsts, files) if count >= SHARED else None
        while True:
            try:
                first = firsts.popleft()
            except IndexError:
                if helper is None:
                    return wrong
                wrong += helper.result()
                helper = None  # what it left, if it failed, is looked at here
            else:
                wrong += folders.differing(*files(first, AT_ONCE))


def _elsewhere(root: Path, firsts: deque[int], files: Callable[[int, int], Files]) -> list[str]:
    """What differs of those files that another process looked at; where that fails, it leaves them."""
    wrong: list[str] = []
    first: int | None = None
    command, pipe, none = [sys.executable, "-IS", __file__, str(root)], subprocess.PIPE, subprocess.DEVNULL
    with (
        suppress(OSError, ValueError, IndexError),
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=none) as other,
    ):
        assert other.stdin and other.stdout
        while True:
            first = firsts.popleft()
            paths, sizes = files(first, AT_ONCE)
            _send(other.stdin, paths, sizes)
            wrong += json.loads(other.stdout.readline())
            first = None
    if first is not None:
        firsts.append(first)
    return wrong


def _send(stream: IO[bytes], paths: list[str], sizes: list[int]) -> None:
    """Two lengths, the paths with NUL between them, the sizes: that takes a tenth of the time of JSON.

    ValueError for what cannot be said so: a path that holds a NUL, which is no file's, and a size that is not known.
    """
    if None in sizes:
        raise ValueError("a size is not known")
    text, numbers = "\0".join(paths).encode(), array("q", sizes).tobytes()
    if text.count(b"\0") >= len(paths):
        raise ValueError("a path holds a NUL")
    stream.write(b"%d %d\n" % (len(text), len(numbers)))
    stream.write(text + numbers)
    stream.flush()


def _serve(root: str) -> None:
    """The other process: answers, line by line, until nothing more is asked."""
    with Folders(root) as folders:
        while asked := sys.stdin.buffer.readline():
            text, numbers = map(int, asked.split())
            paths, sizes = sys.stdin.buffer.read(text).decode().split("\0"), array("q")
            sizes.frombytes(sys.stdin.buffer.read(numbers))
            print(json.dumps(folders.differing(paths, sizes.tolist())), flush=True)


class Folders:
    """Directories below a root, opened name by name: what is seen in one lies behind no symbolic link."""

    def __init__(self, root: str | Path) -> None:
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
            if name == "..":
                raise NotADirectoryError(name)
            self._opened.append(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._opened[-1]))
            self._names.append(name)
        return self._opened[-1]

    def _leave(self, depth: int) -> None:
        """Close all that is deeper than ``depth`` names."""
        while len(self._names) > depth:
            self._names.pop()
            os.close(self._opened.pop())


if __name__ == "__main__":
    _serve(sys.argv[1])
