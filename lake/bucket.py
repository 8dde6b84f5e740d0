"""Buckets of object stores: where a site's objects are, with which credentials, and what their store's errors mean.

Credentials come from the environment alone (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; or DRP_<SITE>_ACCESS_KEY_ID,
DRP_<SITE>_SECRET_ACCESS_KEY for one site) and are never written anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

SCHEMES = ("s3://",)
REGION = "us-east-1"


class StoreError(OSError):
    """An object store that cannot be used, or does not do what a lake needs; the message names it and the remedy."""


@dataclass(frozen=True)
class Bucket:
    """Where an object site is: ``url`` is s3://bucket[/prefix], ``endpoint`` the store's address (None: Amazon's own)."""

    url: str
    endpoint: str | None = None
    site: str = ""

    def options(self) -> dict[str, str]:
        """What delta-rs must be told to read and write here; holds credentials: for memory only."""
        found = {"region": os.environ.get("AWS_REGION", REGION), "conditional_put": "etag"}
        if self.endpoint:
            found |= {"endpoint": self.endpoint, "allow_http": str(self.endpoint.startswith("http://")).lower()}
        for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            value = os.environ.get(f"DRP_{self.site.upper().replace('-', '_')}_{key}") or os.environ.get(f"AWS_{key}")
            if value:
                found[key.lower()] = value
        return found


#: The roots that this process has opened, by URL: what DuckDB's file system may read.
_known: dict[str, Bucket] = {}


@cache
def store(bucket: Bucket) -> Any:
    """The obstore store of a bucket, opened once."""
    from obstore.store import S3Store

    options = bucket.options()
    know(bucket)
    return S3Store(
        bucket.url.removeprefix("s3://").split("/")[0],
        endpoint=bucket.endpoint,
        region=options["region"],
        client_options={"allow_http": options.get("allow_http") == "true"},
        access_key_id=options.get("access_key_id"),
        secret_access_key=options.get("secret_access_key"),
    )


def know(bucket: Bucket) -> None:
    """Let this process read a root."""
    _known[bucket.url] = bucket


@contextmanager
def errors(path: object) -> Iterator[None]:
    """Errors of the store as OSErrors that name the object, in one line, without what the request carried."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(2, "No such object", str(path)) from None
    except OSError:
        raise
    except Exception as error:
        kind = type(error)
        if not kind.__module__.startswith("obstore"):
            raise
        said = " ".join(str(error).split()).partition("Debug source")[0].partition("<?xml")[0]
        raise StoreError(
            f"{path}: the object store fails ({kind.__name__}: {said[:160]}); is it there, are the credentials right?"
        ) from None


def owner(uri: str) -> Bucket | None:
    """The bucket of the root, opened by this process, that a URI is below; None for a local path."""
    if not uri.startswith(SCHEMES):
        return None
    found = [bucket for url, bucket in _known.items() if uri == url or uri.startswith(url + "/")]
    if not found:
        raise StoreError(f"{uri}: no open lake has a site there")
    return max(found, key=lambda bucket: len(bucket.url))


def opened() -> bool:
    """Whether this process has opened a root in an object store."""
    return bool(_known)
