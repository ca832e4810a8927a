"""Data sets of the hub at pinned revisions, through the datasets library."""

import re
from functools import lru_cache
from typing import Any

CONVERTED = "refs/convert/parquet"
"""The branch on which the hub keeps parquet conversions of data sets that are scripts."""

REVISIONS = {
    "Salesforce/wikitext": "b08601e04326c79dfdd32d625aee71d232d685c3",
    "ptb-text-only/ptb_text_only": CONVERTED,
    "bookcorpus/bookcorpus": CONVERTED,
    "aps/super_glue": "3de24cf8022e94f4ee4b9d55a6f539891524d646",
    "baber/piqa": "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1",
    "Rowan/hellaswag": "218ec52e09a7e7462a5400043bb9a69a41d06b76",
    "allenai/winogrande": "01e74176c63542e6b0bcb004dcdea22d94fb67b5",
    "allenai/ai2_arc": "210d026faf9955653af8916fad021475a3f00453",
    "allenai/openbookqa": "388097ea7776314e93a529163e0fea805b8a6454",
    "tatsu-lab/alpaca": "dce01c9b08f87459cf36a430d809084718273017",
}
"""Pinned hub revisions. Another revision, of these or any other data set, is named as `org/dataset@revision`."""


def revision_of(id: str) -> tuple[str, str]:
    """Split `org/dataset[@revision]` into the plain id and the revision to read: named, pinned here, or main."""
    name, _, revision = id.partition("@")
    return name, revision or REVISIONS.get(name, "main")


@lru_cache(maxsize=256)
def commit(name: str, configuration: str | None, revision: str) -> str:
    """The commit that a revision stands for now; the hub (or the local cache) is asked unless it is one itself."""
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    import datasets

    return str(datasets.load_dataset_builder(name, **_configured(configuration, revision), revision=revision).hash)


def load(name: str, configuration: str | None, split: str, revision: str, commit: str) -> Any:
    """A split as a `datasets.Dataset`, at the commit that the revision stands for."""
    import datasets

    return datasets.load_dataset(name, **_configured(configuration, revision), split=split, revision=commit)


def _configured(configuration: str | None, revision: str) -> dict[str, str]:
    if configuration in (None, "default"):
        return {}
    # The branch of conversions declares no configurations: there they are folders.
    return {"data_dir" if revision == CONVERTED else "name": str(configuration)}
