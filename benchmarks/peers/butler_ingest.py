"""Butler: ingest of files with references made beforehand. Arguments: how many, mode (direct or copy), bytes per file, folder."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import butler_repo

count, mode, size, folder = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
butler = butler_repo.make(folder / "repo", -(-count // butler_repo.DETECTORS))
given = butler_repo.files(folder / "given", butler_repo.refs(butler, count), os.urandom(size))
os.sync()  # the sources are on disk, as for ours
began = time.perf_counter()
butler.ingest(*given, transfer=mode)
seconds = time.perf_counter() - began
assert sum(1 for _ in butler.registry.queryDatasets(butler_repo.TYPE, collections=butler_repo.RUN)) == count
print(json.dumps({"version": butler_repo.VERSION, "seconds": seconds, "datasets": count}))
