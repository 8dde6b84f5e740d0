"""Read bundles again, every byte, and note what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from lake.archive import container
from lake.archive.shelf import DAMAGED, LOST, STORED, Bundle, Shelf, bundles, members
from lake.site import Lake, one_line

Progress = Callable[[int, int], None]


@dataclass
class Inspected:
    """``bundles`` as they stand now; ``wrong`` maps (bundle_id, member's path) to what is wrong with it; ``unreachable`` are
    locations that are not there (not mounted?), of whose bundles nothing was learnt."""

    bundles: list[Bundle] = field(default_factory=list)
    wrong: dict[tuple[str, str], str] = field(default_factory=dict)
    unreachable: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.unreachable and all(bundle.state == STORED for bundle in self.bundles)


def verify(
    lake: Lake,
    site: str | None = None,
    only: Iterable[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Inspected:
    """Compare bundles (those of one keeper, or those whose ids are ``only``) with their sha256, and each member with its own.

    What is lost or damaged no longer counts as archived: the next run of archive() takes its members in again, as far as a
    site still has them. What is intact in a damaged bundle can still be read. Every look is noted in ``archive_bundle``.
    """
    chosen = bundles(lake, site)
    if only is not None:
        wanted = set(only)
        chosen = [bundle for bundle in chosen if bundle.bundle_id in wanted]
    found, total, done = Inspected(), sum(bundle.bytes for bundle in chosen), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(min(done, total), total)

    for bundle in chosen:
        shelf = Shelf(lake.site(bundle.site), bundle.location)
        if bundle.location and not shelf.folder.is_dir():
            found.unreachable.append(bundle.location)
            continue
        state, reason, wrong = _look(lake, shelf, bundle, advance)
        now = replace(bundle, state=state, reason=reason)
        shelf.note(now)
        found.bundles.append(now)
        found.wrong |= {(bundle.bundle_id, path): why for path, why in wrong.items()}
    found.unreachable = sorted(set(found.unreachable))
    return found


def _look(lake: Lake, shelf: Shelf, bundle: Bundle, advance: Callable[[int], None]) -> tuple[str, str | None, dict[str, str]]:
    """State, reason and wrong members of one bundle."""
    path = shelf.file(bundle.path)
    try:
        size = path.stat().st_size
        checksum, wrong = container.check(path, members(bundle, lake), advance)
    except FileNotFoundError:
        return LOST, "is not in storage", {}
    except OSError as error:
        return DAMAGED, f"cannot be read: {one_line(error)}", {}
    if (size, checksum) == (bundle.bytes, bundle.checksum) and not wrong:
        return STORED, None, {}
    if size != bundle.bytes:
        reason = f"has {size} bytes, {bundle.bytes} were stored"
    else:
        reason = f"has the checksum {checksum}, {bundle.checksum} was stored"
    return DAMAGED, f"{reason}; {len(wrong)} of {bundle.members} members are wrong", wrong
