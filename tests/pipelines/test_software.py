"""The software's fingerprint: what it tells, and that a campaign does not go on with other software."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import toy

from lake import delta
from lake.site import Lake, Site
from pipelines import definition, driver, execute, graph, inception, placement, software
from pipelines.journal import Journal
from pipelines.runner import SiteRunner
from pipelines.software import FingerprintError


def test_what_it_tells() -> None:
    told = json.loads(software.describe())
    assert set(told) == {"packages", "python", "machine", "source"}
    assert told["packages"].keys() == set(software.PACKAGES)
    assert len(told["source"]) == 64
    assert len(software.fingerprint()) == 16 and software.fingerprint() == software.fingerprint()


def test_pinned_once_and_found_again(tmp_path: Path) -> None:
    lake = toy.lake(tmp_path / "lake", 1)
    for _ in range(2):
        inception.pin_software(lake, toy.campaign(), toy.pipeline())
    with delta.connect() as con:
        delta.view(con, lake.central, "dataset")
        rows = con.execute("SELECT run, path FROM dataset WHERE dataset_type = 'software'").fetchall()
    assert [run for run, _ in rows] == ["toy/software"]
    assert lake.central.path(rows[0][1]).read_bytes() == software.describe()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"packages": {"numpy": "0.1"}}, "numpy .* then, 0.1 now"),
        ({"python": "2.7.18"}, r"python .* then, 2\.7\.18 now"),
        ({"source": "0" * 64}, "the project's own source has changed"),
    ],
)
def test_other_software_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, words: str) -> None:
    lake = toy.lake(tmp_path / "lake", 1)
    pipeline = toy.pipeline()
    inception.pin_software(lake, toy.campaign(), pipeline)
    told = json.loads(software.describe())
    other = told | change | ({"packages": told["packages"] | change["packages"]} if "packages" in change else {})
    monkeypatch.setattr(software, "describe", lambda: json.dumps(other).encode())
    with pytest.raises(FingerprintError, match=words) as refused:
        inception.pin_software(lake, toy.campaign(), pipeline)
    assert "campaign toy: A runs other software than the campaign was begun with" in str(refused.value)


# -- at the sites ------------------------------------------------------------------------------------------------------


@pytest.fixture
def upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the moment it is called, processes that are started find numexpr 9.9.9 installed; this one does not notice."""
    installed = tmp_path / "installed" / "numexpr-9.9.9.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: numexpr\nVersion: 9.9.9\n")
    software.describe()
    return lambda: monkeypatch.syspath_prepend(str(installed.parent))


def runner(lake: Lake, name: str = "A", **given: object) -> SiteRunner:
    return SiteRunner(lake.site(name), toy.pipeline(), toy.campaign(workers=1, **given), Journal(lake, "toy"), "x")


def attempts(site: Site) -> list[tuple[str, int]]:
    with delta.connect() as con:
        return con.sql(f"SELECT state, count(*) FROM ({delta.select(site, 'attempt')}) GROUP BY ALL ORDER BY ALL").fetchall()


def test_a_site_with_another_version_computes_nothing(tmp_path: Path, upgraded: Callable[[], None]) -> None:
    lake = toy.lake(tmp_path / "lake", 1, raws=True)
    upgraded()
    one = runner(lake)
    one.predict()
    was = json.loads(software.describe())["packages"]["numexpr"]
    try:
        with pytest.raises(FingerprintError, match=rf"^site A runs other software .*: numexpr {was} then, 9\.9\.9 now; install"):
            one.run_step("step1")
    finally:
        one.close()
    assert attempts(lake.central) == [] and not lake.central.path("files/toy/step1").exists()


def test_a_worker_that_starts_after_an_upgrade_computes_nothing(tmp_path: Path, upgraded: Callable[[], None]) -> None:
    """The site was admitted; its pool is replaced when a worker dies, or grows: the new process is asked again."""
    lake = toy.lake(tmp_path / "lake", 1, raws=True)
    one = runner(lake)
    one.predict()
    first, second = one._admitted(), None
    one._pool = first
    task = one.pipeline.tasks[0]
    quanta = one.pending(task)
    spec = replace(one._jobs.of(task, quanta, graph.resolve(one.site, one.pipeline, one.campaign, task, quanta))[0],
                   software=one._software)  # fmt: skip
    try:
        assert {a["state"] for a in first.submit(execute.run_job, spec).result().attempts} == {"succeeded"}
        upgraded()
        second = execute.pool(1)
        with pytest.raises(FingerprintError, match=r"site A: a worker on .* runs other software .*numexpr .* then, 9\.9\.9 now"):
            second.submit(execute.run_job, spec).result()
    finally:
        one.close()
        if second is not None:
            second.shutdown()


def test_a_site_without_the_fingerprint_or_with_a_damaged_one(tmp_path: Path) -> None:
    lake = toy.lake(tmp_path / "lake", 1, raws=True)
    held = next(lake.central.path("files/toy/software").rglob("*.json"))
    content = held.read_bytes()
    for broken in (content.replace(b"numpy", b"numpi"), None):
        held.unlink() if broken is None else held.write_bytes(broken)
        one = runner(lake)
        one.predict()
        with pytest.raises(FingerprintError, match=r"site A: the software's fingerprint is (damaged|lost): .*drp run heals it"):
            one.run_step("step1")
        one.close()
    other = toy.lake(tmp_path / "other", 1)
    one = runner(other)
    with pytest.raises(FingerprintError, match="site A: the campaign's software fingerprint is not here"):
        one._admitted()
    assert attempts(lake.central) == attempts(other.central) == []


def test_a_refused_site_stops_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drives on, B is refused with the package named; once it has the pinned version, the same command finishes."""
    lake = toy.lake(tmp_path / "lake", 2, raws=True, at="AB")
    monkeypatch.setattr(definition, "load", lambda path=None: toy.pipeline())
    monkeypatch.setattr(placement, "PLANS", {"catalogue": (("steps", ("step1", "step2a")),)})
    monkeypatch.setattr(inception, "check", lambda *_: None)
    monkeypatch.setattr(inception, "fill", lambda *_: None)
    admitted, here = SiteRunner._admitted, threading.local()
    other = json.loads(software.describe())
    other["packages"]["numexpr"] = "9.9.9"

    class Elsewhere(ThreadPoolExecutor):
        """Workers on another machine, as far as their software is concerned."""

        def submit(self, function: Callable, /, *given: object) -> Future:
            return super().submit((lambda: json.dumps(other).encode()) if function is software.describe else function, *given)

    def at_site(self: SiteRunner) -> object:
        here.name = self.site.name
        return admitted(self)

    monkeypatch.setattr(SiteRunner, "_admitted", at_site)
    monkeypatch.setattr(execute, "pool", lambda workers: (Elsewhere if here.name == "B" else ThreadPoolExecutor)(workers))
    campaign = replace(toy.campaign({"A": (1,), "B": (2,)}, workers=1), text="name: toy")
    outcome = driver.Driver(lake, campaign).run()
    [problem] = outcome.problems
    assert problem.startswith("site B runs other software than the campaign was begun with: numexpr ")
    assert attempts(lake.site("B")) == [] and dict(attempts(lake.central)).keys() == {"succeeded"}
    monkeypatch.setattr(execute, "pool", ThreadPoolExecutor)
    assert driver.Driver(lake, campaign).run().ok
    assert dict(attempts(lake.site("B"))).keys() == {"succeeded"}
