"""Bring raw frames into a site: science frames as ``raw`` datasets, calibration frames as certified masters.

Every file gets a verdict of its own; a bad one stops no other. Simulated and real frames share ``registration``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lake import access, collection, datastore, delta, dimensions, publish, registry
from lake.site import Lake, Site
from pipelines import instrument as instruments
from pipelines import master_frames, registration
from pipelines import skymap as skymaps
from pipelines.image import Image, ImageError
from pipelines.instrument import Instrument, InstrumentError
from pipelines.raw import CALIBRATION_TYPES, Facts, night_begin, read_raw
from pipelines.registration import Row

#: Days before and after their night for which masters made of a night's frames are certified.
VALIDITY = 30.0
#: Science frames that are published together.
BATCH = 200


class Target(Protocol):
    """What of a campaign matters here."""

    @property
    def name(self) -> str: ...
    @property
    def instrument(self) -> str: ...
    @property
    def skymap(self) -> str: ...


@dataclass(frozen=True)
class Verdict:
    """What became of a file: accepted, present (was there before), used (in a master frame), parked or rejected."""

    path: str
    verdict: str
    reason: str | None = None

    @property
    def ok(self) -> bool:
        return self.verdict in ("accepted", "present", "used")


@dataclass
class _Frame:
    path: Path
    facts: Facts
    checksum: str


def ingest_raws(
    lake: Lake,
    site: Site,
    files: Iterable[str | Path],
    campaign: Target,
    progress: Callable[[int, int], None] | None = None,
    validity: float = VALIDITY,
) -> list[Verdict]:
    """Ingest frames of the campaign's instrument at a site; verdicts come in the order of the files.

    Files are copied into the site; running again with the same files changes nothing. Calibration frames are combined
    per night into bias, dark, flat and defects, valid ``validity`` days before and after it.
    """
    if lake.site(site.name).root != site.root:
        raise ValueError(f"site {site.name} is not a site of {lake.root}")
    paths = [Path(f) for f in files]
    camera, sky = instruments.load(campaign.instrument), skymaps.load(campaign.skymap)
    verdicts: dict[Path, Verdict] = {}
    science: list[_Frame] = []
    calibration: list[_Frame] = []
    for i, path in enumerate(paths):
        try:
            _, facts = read_raw(path, camera)
            frame = _Frame(path, facts, datastore.checksum(path))
            (calibration if facts["observation_type"] in CALIBRATION_TYPES else science).append(frame)
        except (ImageError, InstrumentError, OSError) as error:
            verdicts[path] = Verdict(str(path), "rejected", str(error).removeprefix(f"{path}: "))
        if progress is not None:
            progress(i + 1, len(paths))
    registration.declare(site, campaign.name, sorted({_run(campaign, f.facts) for f in calibration}))
    publisher = publish.Publisher(site)
    for start in range(0, len(science), BATCH):
        verdicts |= _science(site, publisher, camera, sky, campaign.name, science[start : start + BATCH])
    verdicts |= _calibrations(site, publisher, camera, campaign, calibration, validity)
    return [verdicts[path] for path in paths]


# -- science frames ----------------------------------------------------------------------------------------------------


def _science(
    site: Site, publisher: publish.Publisher, camera: Instrument, sky: skymaps.RingsSkyMap, campaign: str,
    frames: Sequence[_Frame],
) -> dict[Path, Verdict]:  # fmt: skip
    verdicts: dict[Path, Verdict] = {}
    contradictions = _contradictions(site, frames)
    sound = []
    for frame in frames:
        if frame.path in contradictions:
            verdicts[frame.path] = Verdict(str(frame.path), "rejected", contradictions[frame.path])
        else:
            sound.append(frame)
    registration.put_dimensions(site, registration.dimension_records(camera, sky, [f.facts for f in sound]))
    run = f"{campaign}/raw"
    wanted = [{**registration.raw_id(f.facts), "dataset_type": "raw", "run": run} for f in sound]
    ids = registration.rows_with_ids(wanted)
    known = _registered(site, run, ids["dataset_id"].to_pylist())
    rows: list[Row] = []
    arriving: list[_Frame] = []
    for frame, dataset_id in zip(sound, ids["dataset_id"].to_pylist(), strict=True):
        held = known.setdefault(dataset_id, frame.checksum)
        if held != frame.checksum:
            which = f"raw of exposure {frame.facts['exposure']} detector {frame.facts['detector']}"
            reason = f"{which} is registered with checksum {held}, this file has {frame.checksum}"
            verdicts[frame.path] = Verdict(str(frame.path), "rejected", reason)
            continue
        data_id = registration.raw_id(frame.facts)
        record = datastore.write_file(
            site,
            datastore.template(run, "raw", data_id),
            lambda to, path=frame.path: _copy(path, to),  # type: ignore[misc]
        )
        rows.append(registration.file_row(site, "raw", run, data_id, record))
        arriving.append(frame)
    if rows:
        judged = registration.publish_rows(publisher, registration.rows_with_ids(rows)).to_pylist()
        for frame, row in zip(arriving, judged, strict=True):
            verdicts[frame.path] = Verdict(str(frame.path), row["verdict"], row["reason"])
    return verdicts


def _copy(source: Path, to: Path) -> None:
    shutil.copyfile(source, to)


def _registered(site: Site, run: str, ids: Sequence[str]) -> dict[str, str]:
    """Checksums of those raws that are registered, by dataset id."""
    with delta.connect() as con:
        where = "run = $run AND list_contains($ids, dataset_id)"
        found = registry.datasets(con, site, where, {"run": run, "ids": ids}, ["raw"])
        return dict(found.select("dataset_id, checksum").fetchall())


def _contradictions(site: Site, frames: Sequence[_Frame]) -> dict[Path, str]:
    """Frames whose facts differ from the record of their exposure (known here, or of the first frame given)."""
    numbers = sorted({f.facts["exposure"] for f in frames})
    if not numbers:
        return {}
    listed = ", ".join(map(str, numbers))
    instrument = frames[0].facts["instrument"].replace("'", "''")
    known = dimensions.read(site, "exposure", f"instrument = '{instrument}' AND exposure IN ({listed})")
    records: dict[int, Mapping[str, Any]] = {row["exposure"]: row for row in known.to_pylist()}
    found = {}
    for frame in sorted(frames, key=lambda f: (f.facts["exposure"], f.facts["detector"])):
        record = records.setdefault(frame.facts["exposure"], frame.facts)
        for column in registration.EXPOSURE:
            if record[column] != frame.facts[column]:
                found[frame.path] = (
                    f"exposure {frame.facts['exposure']} is known with {column} {record[column]!r}, "
                    f"the header says {frame.facts[column]!r}"
                )
                break
    return found


# -- calibration frames ------------------------------------------------------------------------------------------------


def _run(campaign: Target, facts: Facts) -> str:
    return f"{registration.calibrations(campaign.name)}/{facts['day_obs']}"


def _calibrations(
    site: Site,
    publisher: publish.Publisher,
    camera: Instrument,
    campaign: Target,
    frames: Sequence[_Frame],
    validity: float,
) -> dict[Path, Verdict]:
    """Masters of each night, registered and certified; frames that lack what they need are rejected."""
    verdicts: dict[Path, Verdict] = {}
    for night in sorted({f.facts["day_obs"] for f in frames}):
        mine = [f for f in frames if f.facts["day_obs"] == night]
        masters, problems = _masters(site, camera, campaign.name, mine)
        verdicts |= {path: Verdict(str(path), "rejected", why) for path, why in problems.items()}
        run = _run(campaign, mine[0].facts)
        rows = []
        for (kind, detector, name), image in masters.items():
            data_id: Row = {"instrument": camera.name, "detector": detector}
            if name is not None:
                data_id |= {"physical_filter": name, "band": camera.filters[name].band}
            record = datastore.write_file(site, datastore.template(run, kind, data_id), image.write)
            rows.append(registration.file_row(site, kind, run, data_id, record))
        state, reason = "used", None
        if rows:
            table = registration.rows_with_ids(rows)
            registration.put_dimensions(site, registration.instrument_records(camera))
            refused = [v for v in registration.publish_rows(publisher, table).to_pylist() if v["verdict"] == "rejected"]
            if refused:
                state, reason = "rejected", refused[0]["reason"]
            else:
                middle = night_begin(night)
                collection.certify(
                    site, registration.calibrations(campaign.name), table, middle - validity, middle + 1.0 + validity
                )
        for frame in mine:
            verdicts.setdefault(frame.path, Verdict(str(frame.path), state, reason))
    return verdicts


Key = tuple[str, int, str | None]


def _masters(site: Site, camera: Instrument, campaign: str, frames: Sequence[_Frame]) -> tuple[dict[Key, Image], dict[Path, str]]:
    """Masters by (type, detector, filter) of one night's frames, and why other frames could not be used."""
    masters: dict[Key, Image] = {}
    problems: dict[Path, str] = {}
    rates: dict[Key, float] = {}
    groups: dict[Key, list[_Frame]] = {}
    for f in sorted(frames, key=lambda f: (f.facts["exposure"], f.checksum)):
        groups.setdefault((f.facts["observation_type"], f.facts["detector"], f.facts["physical_filter"]), []).append(f)
    for key in sorted(groups, key=lambda k: (CALIBRATION_TYPES.index(k[0]), k[1], k[2] or "")):
        kind, number, name = key
        detector = camera.detector(number)
        pixels = [read_raw(f.path, camera)[0] for f in groups[key]]
        seconds = [float(f.facts["exposure_time"]) for f in groups[key]]
        if kind == "bias":
            masters[key] = master_frames.master_bias(pixels, camera, detector)
            continue
        bias = masters.get(("bias", number, None)) or _certified(site, campaign, "bias", groups[key][0].facts)
        dark = masters.get(("dark", number, None)) or _certified(site, campaign, "dark", groups[key][0].facts)
        if bias is None or min(seconds) <= 0.0:
            why = "its exposure time is 0" if bias else "there is no bias for it: give bias frames of the night too"
            problems |= {f.path: f"{kind} of detector {number}: {why}" for f in groups[key]}
        elif kind == "dark":
            masters[key] = master_frames.master_dark(pixels, seconds, bias, camera, detector)
        else:
            masters[key] = master_frames.master_flat(pixels, seconds, bias, dark, camera, detector)
            rates[key] = _rate(pixels, seconds, camera, number, bias)
    for name in sorted({k[2] or "" for k in rates}):
        master_frames.normalise([(masters[k], rates[k]) for k in sorted(rates, key=lambda k: k[1]) if k[2] == name])
    for number in sorted({k[1] for k in masters if k[0] != "bias"}):
        flats = [masters[k] for k in sorted(rates, key=lambda k: k[2] or "") if k[1] == number]
        masters[("defects", number, None)] = master_frames.defects(
            masters.get(("dark", number, None)), flats[0] if flats else None, camera, camera.detector(number)
        )
    return masters, problems


def _rate(pixels: Sequence[NDArray[np.uint16]], seconds: Sequence[float], camera: Instrument, number: int, bias: Image) -> float:
    """ADU per second of a detector under the flat's light."""
    detector = camera.detector(number)
    levels = [float(np.median(master_frames.trimmed(p, detector) - bias.image)) for p in pixels]
    return sum(levels) / sum(seconds)


def _certified(site: Site, campaign: str, kind: str, facts: Facts) -> Image | None:
    """The master that is valid already at the time of a frame."""
    with delta.connect() as con:
        valid = collection.calibrations(con, site, registration.calibrations(campaign), facts["mjd_mid"])
        mine = valid.filter(f"dataset_type = '{kind}' AND detector = {int(facts['detector'])}")
        found = mine.select("path").fetchall()
    return Image.read(access.local(site.path(found[0][0]))) if found else None
