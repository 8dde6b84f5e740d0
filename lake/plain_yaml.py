"""YAML that people wrote, read so that it can only ever become plain values of a bounded size."""

from __future__ import annotations

from typing import Any

import yaml


def parse(text: str) -> Any:
    """Mappings, lists, texts, numbers and dates, by the safe loader (in C: ten times as fast); yaml.YAMLError where it is no YAML.

    Aliases (``*name``) are refused: nested, a few hundred bytes of them stand for billions of values.
    """
    if "*" in text:
        for token in yaml.scan(text, Loader=yaml.CSafeLoader):
            if isinstance(token, yaml.AliasToken):
                raise yaml.MarkedYAMLError(problem="aliases (*name) are not read, write it out", problem_mark=token.start_mark)
    return yaml.load(text, Loader=yaml.CSafeLoader)
