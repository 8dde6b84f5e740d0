"""The archive of a site in an object store, on a real S3 server: the same bundles, read by range."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_lake
from s3_server import serving

from lake import archive, datastore, movement
from lake.archive import shelf
from lake.site import Lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """USDF, a directory with six raws and two slices; CLOUD, a bucket that has them by a rule."""
    with serving() as given, pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        cloud = {"root": f"s3://drp-test/{uuid.uuid4().hex}", "endpoint": given["DRP_S3_ENDPOINT"]}
        lake = Lake.create(tmp_path_factory.mktemp("archive") / "lake", {"USDF": {"central": True}, "CLOUD": cloud})
        small_lake.registry.register_dataset_types(lake.central, small_lake.TYPES)
        small_lake.add_dimensions(lake.central, range(1, 3))
        small_lake.add_raws(lake.central, range(1, 3))
        small_lake.add_visit_tables(lake.central, range(1, 3))
        spec = movement.RuleSpec(None, "all", ("raw", "visit_table"), "true", "USDF", "CLOUD")
        assert movement.run_rules(lake, movement.add_rules(lake, [spec])).ok
        yield lake


def test_bundles_in_a_bucket(lake: Lake, tmp_path: Path) -> None:
    cloud = lake.site("CLOUD")
    [here] = archive.archive(lake, lake.central, archive.Shelf(lake.central)).bundles
    [there] = archive.archive(lake, cloud, archive.Shelf(cloud)).bundles
    assert (there.bundle_id, there.checksum) == (here.bundle_id, here.checksum), "wherever it is made and kept"
    assert archive.verify(lake).ok
    lake.central.path(here.path).unlink()
    assert [b.state for b in archive.verify(lake).bundles] == ["stored", "lost"]
    members = shelf.members(there, lake)
    with archive.Reader(lake) as reader:
        for member in members:
            assert reader.read(member.path) == lake.central.path(member.path).read_bytes()
    lost, damaged, *_ = members
    for site in (lake.central, cloud):
        content = site.path(damaged.path).read_bytes()
        site.path(lost.path).unlink()
        site.path(damaged.path).write_bytes(b"x" + content[1:])
        assert set(archive.recall(lake, site).restored) == {lost.path, damaged.path}
        assert all(datastore.checksum(site.path(member.path)) == member.checksum for member in members)
    content = cloud.path(there.path).read_bytes()
    cloud.path(there.path).write_bytes(content[: lost.offset] + b"x" + content[lost.offset + 1 :])
    found = archive.verify(lake, "CLOUD")
    assert [b.state for b in found.bundles] == ["damaged"] and list(found.wrong) == [(there.bundle_id, lost.path)]
    assert archive.mend(lake, cloud, [there.path]) == {}
    assert cloud.path(there.path).read_bytes() == content
