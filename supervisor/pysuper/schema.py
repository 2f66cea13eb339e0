"""
A JSON Schema of files, for editors: completion, explanations, and mistakes while they are made.

`pysuper config --schema > pysuper.schema.json` writes it; the package has it too, as schema.json. Taplo, and with it
the TOML extensions of many editors, finds it by the first line of a file:

    #:schema ./pysuper.schema.json

It is made of the tables by which files are read, and takes what these take. What is wrong between keys, such as a
cycle of dependencies, only `pysuper config` finds.
"""

from __future__ import annotations

import json
from pathlib import Path

from pysuper.keys import CONTAINER, DOCUMENT, container_keys
from pysuper.tables import Schema, table

__all__ = ["FILE", "schema", "text"]

#: Made by `python -m pysuper.schema`.
FILE = Path(__file__).with_name("schema.json")


def schema() -> Schema:
    """The schema, draft 2020-12."""
    # What paths are relative to makes no difference here.
    container = table(container_keys(directory="", environment={})).schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A file of pysuper",
        "description": "Containers that are supervised together.",
        **table(DOCUMENT).schema,
        "$defs": {CONTAINER["$ref"].removeprefix("#/$defs/"): container},
    }


def text() -> str:
    """The schema as it is written to a file."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
