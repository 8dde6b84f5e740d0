"""Movement: rules say which datasets must be where; files travel until the destination's own registry says so.

A rule's manifest, its state and every transition of its files are append-only events at the destination. Nothing else is
remembered: what is still to do is the manifest minus the destination's registry, so that a run may be killed at any
instruction and repeated.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import batched, groupby
from typing import Any

import pyarrow as pa

import schemas
from lake import delta, dimensions, registry
from lake.fault import point
from lake.ingester import RECORD, ingest
from lake.query import QueryError, connect, identifier
from lake.replicas import Refetched, Replicas, refetch
from lake.site import Lake, LakeError, Site
from lake.sql import statement
from lake.transfer import Delivery, Order, deliver
from lake.transfer_log import Event, write_events

__all__ = ["Policy", "Refetched", "Report", "Rule", "RuleError", "RuleSpec", "add_rule", "add_rules", "refetch", "rules", "run_rules"]
