"""What was archived and taken out is accounted for as archived; what is here and archived too is counted as such."""

from __future__ import annotations

from pathlib import Path

import pytest

from checks import audit, counting, ledger
from lake import archive, prune
from lake.prune import PruneError
from lake.search import search
from lake.site import Lake, Site


def ids(lake: Lake, site: Site, kind: str) -> list[str]:
    found: list[str] = search(lake, [kind], sites=[site.name])["dataset_id"].to_pylist()
    return found


@pytest.mark.parametrize(("kind", "step", "keep_from"), [("direct_warp", "step3", 10**6), ("raw", "place", 1)])
def test_from_present_to_archived_and_back(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, kind: str, step: str, keep_from: int
) -> None:
    monkeypatch.setattr(counting, "KEEP_FROM", keep_from)
    site = lake.site("FRDF")

    def counts() -> tuple[int, int, int, int]:
        found = ledger.ledger(lake, "paper")
        assert found.reconciled, found.problems
        [row] = [r for r in found.rows if (r["site"], r["step"], r["dataset_type"]) == ("FRDF", step, kind)]
        return row["expected"], row["visible"], row["archived"], row["in_archive"]

    total = len(ids(lake, site, kind))
    assert counts() == (total, total, 0, 0) and total > 1
    archive.archive(lake, site, archive.Shelf(lake.central), [kind])
    assert counts() == (total, total, 0, total)
    here = prune.plan(lake, site, ids(lake, site, kind), prune.Leave(wanted=True))
    assert here.refused.num_rows == 0 and set(here.datasets["archived"].to_pylist()) == {1}
    operation, _ = prune.prune(lake, site, ids(lake, site, kind), "room", prune.Leave(wanted=True))
    assert counts() == (total, 0, total, 0)
    found = ledger.ledger(lake, "paper")
    assert f" + {total} archived" in found.summary and found.raws == [] and found.raw_count == 16
    assert prune.undo(site, operation)["verdict"].to_pylist() == ["accepted"] * total
    assert counts() == (total, total, 0, total)
    prune.prune(lake, site, ids(lake, site, kind), "room", prune.Leave(wanted=True))
    gone = prune.empty(site, 0.0)
    assert len(gone) == total and counts() == (total, 0, total, 0)
    back = archive.recall(lake, site, types=[kind])
    assert len(back.restored) == total and back.verdicts == {"accepted": total}
    assert counts() == (total, total, 0, total) and audit.audit(site, deep=True).findings == []


def test_only_a_sound_bundle_is_a_copy(lake: Lake) -> None:
    site = lake.site("FRDF")
    found = sorted(set(ids(lake, site, "direct_warp")).difference(ids(lake, lake.central, "direct_warp")))
    [bundle] = archive.archive(lake, site, archive.Shelf(lake.central), ["direct_warp"]).bundles
    assert found
    path: Path = archive.Shelf(lake.central).file(bundle.path)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    said = r"is the last copy in the lake, but for an archived one that is damaged or not there \(drp archive --verify\)"
    with pytest.raises(PruneError, match=said):
        prune.prune(lake, site, found, "room")
    path.write_bytes(data)
    prune.prune(lake, site, found, "room")
    path.unlink()
    assert prune.empty(site, 0.0) == [] and len(prune.last_copies(site, 0.0)) == len(found)
    assert not archive.verify(lake).ok
    counted = ledger.ledger(lake, "paper", None).totals
    assert (counted["archived"], counted["in_archive"]) == (0, 0), "what is in no sound bundle is not archived"
    path.write_bytes(data)
    assert archive.verify(lake).ok and len(prune.empty(site, 0.0)) == len(found)
    assert ledger.ledger(lake, "paper", None).totals["archived"] == len(found)
