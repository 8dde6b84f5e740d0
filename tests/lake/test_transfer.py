"""The copy engine: streaming, verified before the name exists, failures that say whose fault they are."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
import zlib
from pathlib import Path

import pytest

from lake import transfer
from lake.transfer import Copied, DestinationError, Order, ReplicaError, copy_file, deliver

ADLER32 = f"{zlib.adler32(b'photons' * 1000):08x}"


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "a.fits"
    path.parent.mkdir()
    path.write_bytes(b"photons" * 1000)
    return path


def order(replica: Path, target: Path, content: bytes = b"photons" * 1000) -> Order:
    return Order("files/a.fits", "USDF", replica, target, len(content), hashlib.sha256(content).hexdigest())


def test_copies_and_verifies(replica: Path, tmp_path: Path) -> None:
    target = tmp_path / "site" / "files" / "a.fits"
    assert copy_file(order(replica, target)) == Copied(True, ADLER32)
    assert target.read_bytes() == replica.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["a.fits"]


def test_a_good_file_is_not_copied_again(replica: Path, tmp_path: Path) -> None:
    target = tmp_path / "site" / "files" / "a.fits"
    copy_file(order(replica, target))
    replica.unlink()
    assert copy_file(order(replica, target)) == Copied(False, ADLER32)


def test_a_damaged_target_is_replaced(replica: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.fits"
    target.write_bytes(b"photonz" * 1000)
    assert copy_file(order(replica, target)) == Copied(True, ADLER32)
    assert target.read_bytes() == replica.read_bytes()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "lost at USDF"),
        (lambda path: path.write_bytes(b"photons"), "damaged at USDF: 7 bytes, registered 7000"),
        (lambda path: path.write_bytes(b"photonz" * 1000), "damaged at USDF: sha256 .* registered"),
    ],
    ids=["lost", "truncated", "altered"],
)
def test_a_bad_replica_leaves_nothing(replica: Path, tmp_path: Path, damage, reason: str) -> None:
    damage(replica)
    target = tmp_path / "site" / "a.fits"
    with pytest.raises(ReplicaError, match=reason):
        copy_file(order(replica, target))
    assert not target.exists()
    assert not target.parent.exists() or not list(target.parent.iterdir())


def test_a_target_that_cannot_be_written(replica: Path, tmp_path: Path) -> None:
    (tmp_path / "site").write_text("a file where a directory must be")
    with pytest.raises(DestinationError, match="cannot be written"):
        copy_file(order(replica, tmp_path / "site" / "a.fits"))


def test_a_disk_that_fills_up_leaves_no_litter(replica: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer.os, "fsync", full)
    with pytest.raises(DestinationError, match="No space left"):
        copy_file(order(replica, tmp_path / "a.fits"))
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_no_whole_file_in_memory(tmp_path: Path) -> None:
    size = 64 * transfer.CHUNK
    replica = tmp_path / "big"
    with replica.open("wb") as file:
        file.truncate(size)
    checksum = hashlib.sha256()
    for _ in range(64):
        checksum.update(bytes(transfer.CHUNK))
    tracemalloc.start()
    copy_file(Order("files/big", "USDF", replica, tmp_path / "copy", size, checksum.hexdigest()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * transfer.CHUNK
    assert (tmp_path / "copy").stat().st_size == size


def test_deliver_reports_every_order(tmp_path: Path) -> None:
    orders = []
    for i in range(600):  # more than one window
        content = f"content {i}".encode()
        replica = tmp_path / "source" / str(i)
        replica.parent.mkdir(exist_ok=True)
        replica.write_bytes(content if i != 7 else b"other")
        target = tmp_path / "site" / "files" / "run" / f"{i}.fits"
        orders.append(Order(f"files/run/{i}.fits", "USDF", replica, target, len(content), hashlib.sha256(content).hexdigest()))
    done = [delivery for batch in deliver(iter(orders)) for delivery in batch]
    assert sorted(d.order.path for d in done) == sorted(o.path for o in orders)
    failed = [d for d in done if d.error is not None]
    assert [(d.order.path, d.replica_bad) for d in failed] == [("files/run/7.fits", True)]
    assert all(d.order.target.exists() == (d.error is None) for d in done)
    assert not list(tmp_path.rglob(".tmp-*"))


def test_new_directories_are_made_durable(replica: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(transfer, "fsync_dir", synced.append)
    site = tmp_path / "site"
    list(deliver([order(replica, site / "files" / "a.fits")]))
    assert synced == [site, site / "files"]
    assert os.path.exists(site / "files" / "a.fits")  # noqa: PTH110
