"""The archive: many small files in few large bundles, from which each can be read, verified and brought back alone.

container the file format: an uncompressed ZIP64 that any archive centre can open without us
shelf     where bundles lie, the tables that say what is in them, and when one may go
keep      choose, bundle, verify, and only then count
inspect   read a whole bundle again, and note what became of it
mend      make a bundle again from its files
recall    bring members back to a site, through its registry
reader    read one member by its place in a bundle
"""

from lake.archive.inspect import Inspected, verify
from lake.archive.keep import TARGET, Kept, archive
from lake.archive.mend import mend
from lake.archive.reader import Copy, Reader
from lake.archive.recall import Recalled, recall
from lake.archive.shelf import FOLDER, ArchiveError, Bundle, Shelf, bundles

__all__ = [
    "FOLDER", "TARGET", "ArchiveError", "Bundle", "Copy", "Inspected", "Kept", "Reader", "Recalled", "Shelf", "archive",
    "bundles", "mend", "recall", "verify",
]  # fmt: skip
