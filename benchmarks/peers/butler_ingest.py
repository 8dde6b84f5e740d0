"""Butler: ingest of files. Arguments: how many, mode (direct or copy), bytes per file, folder, and where references are made:
``before`` the clock starts (with all their records looked up), or ``inside`` of it, from data IDs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import butler_repo

count, mode, size, folder, where = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
butler = butler_repo.make(folder / "repo", -(-count // butler_repo.DETECTORS))
paths = butler_repo.write(folder / "given", count, os.urandom(size))
made = butler_repo.refs(butler, count) if where == "before" else None
data_ids = [{"instrument": "Cam", "visit": n // butler_repo.DETECTORS, "detector": n % butler_repo.DETECTORS} for n in range(count)]
os.sync()  # the sources are on disk, as for ours
began = time.perf_counter()
butler.ingest(*butler_repo.files(paths, made or butler_repo.named(butler, data_ids)), transfer=mode)
seconds = time.perf_counter() - began
assert sum(1 for _ in butler.registry.queryDatasets(butler_repo.TYPE, collections=butler_repo.RUN)) == count
print(json.dumps({"version": butler_repo.VERSION, "seconds": seconds, "datasets": count}))
