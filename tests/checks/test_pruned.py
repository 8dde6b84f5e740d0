"""What was taken out on purpose is no loss: the ledger reconciles without it, and expects it again when it is put back."""

from __future__ import annotations

from checks import audit, ledger
from lake import prune
from lake.search import search
from lake.site import Lake


def test_the_ledger_expects_no_more_what_was_taken_out(lake: Lake) -> None:
    site = lake.site("FRDF")
    before = ledger.ledger(lake, "paper").totals["expected"]
    found = search(lake, ["direct_warp"], sites=["FRDF"])
    paths = [site.path(path) for path in found["path"].to_pylist()]
    operation, plan = prune.prune(lake, site, found["dataset_id"].to_pylist(), "room", prune.Leave(last_copy=True))
    assert plan.datasets.num_rows == found.num_rows > 0 and all(path.exists() for path in paths)
    without = ledger.ledger(lake, "paper")
    assert without.reconciled and without.totals["expected"] == before - found.num_rows and without.totals["orphan"] == 0
    assert audit.audit(site).findings == []
    prune.undo(site, operation)
    again = ledger.ledger(lake, "paper")
    assert again.reconciled and again.totals["expected"] == before
