"""Texts: passages to calibrate and search on, and the windows that perplexity is measured over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from reproducer.data import builtin
from reproducer.data.files import DataError
from reproducer.data.sources import Rows, Source, find_source
from reproducer.errors import UserError

if TYPE_CHECKING:
    import torch

Role = Literal["report", "search", "calibration"]
DEFAULT_SPLIT: Mapping[str, str] = {"report": "test", "search": "validation", "calibration": "train"}


class Tokenizer(Protocol):
    """As much of a transformers tokenizer as this room needs."""

    def __call__(self, text: Any, **options: Any) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class TextEntry:
    """A text of the catalogue: what each role reads. Roles never share a split."""

    name: str
    label: str
    sources: Mapping[str, Source]


def _builtin_entry(name: str, label: str) -> TextEntry:
    return TextEntry(name, label, {role: Source(f"builtin/{name}", split=role) for role in builtin.ROLES})


_PTB = ("ptb-text-only/ptb_text_only", "penn_treebank")

TEXTS: Mapping[str, TextEntry] = {
    entry.name: entry
    for entry in (
        # LLM-Pruner's protocol reports on WikiText2's raw test split and on PTB's validation split.
        TextEntry(
            "wikitext2",
            "WikiText2",
            {
                "report": Source("Salesforce/wikitext", "wikitext-2-raw-v1", "test"),
                "search": Source("Salesforce/wikitext", "wikitext-2-v1", "validation"),
            },
        ),
        TextEntry(
            "ptb",
            "PTB",
            {
                "report": Source(*_PTB, "validation", "sentence"),
                "search": Source(*_PTB, "test", "sentence"),
            },
        ),
        TextEntry(
            "bookcorpus",
            "BookCorpus",
            {"calibration": Source("bookcorpus/bookcorpus", "plain_text", "train")},
        ),
        TextEntry("c4", "C4", {"report": Source("allenai/c4", "en", "validation", first=1100)}),
        TextEntry("gutenberg", "Gutenberg", {"calibration": Source("gutenberg/fiction", "default", "train")}),
        _builtin_entry("python-topics", "Python topics"),
        _builtin_entry("python-docstrings", "Python docstrings"),
        _builtin_entry("python-packages", "Python packages"),
    )
}


@dataclass(frozen=True)
class Text:
    """A text as one role reads it.

    Attributes:
        name: the name in the spec.
        role: report, search or calibration.
        passages: the rows' text as it is, in order (lazily read for large data sets of the hub).
        rows: where it was found.
    """

    name: str
    role: str
    passages: Sequence[str]
    rows: Rows

    def joined(self) -> str:
        """All passages as they are, joined by two newlines: LLM-Pruner's protocol (its `ppl_dataset`)."""
        return "\n\n".join(self.passages[:])  # [:] reads a column of the hub at once


def text_source(name: str, role: str) -> Source:
    """The source that a text's name stands for in a role, with nothing read: of the catalogue, of the hub, a file.

    Raises:
        UserError: an unknown name (with the nearest right one), a role that the text cannot have, or a missing file.
    """
    known = {entry.name: entry.sources[role] for entry in TEXTS.values() if role in entry.sources}
    if name in TEXTS and name not in known:
        raise UserError(
            f"text '{name}' cannot serve for {role}, only for {' and '.join(TEXTS[name].sources)}",
            f"those that can: {', '.join(sorted(known))}",
        )
    return find_source("text", name, known, DEFAULT_SPLIT[role], names=TEXTS)


def text_label(name: str) -> str:
    """The text's name in a table."""
    return TEXTS[name].label if name in TEXTS else name


def text_fingerprints(name: str, role: str) -> dict[str, str]:
    """Today's fingerprint of a text, without parsing it, by its name and role: `{"ptb (report)": …}`."""
    return {f"{name} ({role})": text_source(name, role).fingerprint()}


def load_text(name: str, role: str) -> Text:
    """Read a text.

    Raises:
        UserError: as `text_source`.
        DataError: not found, empty, damaged, or without the field (the message names file and line).
    """
    source = text_source(name, role)
    rows = source.read()
    passages = rows.strings(source.field)
    if source.first is not None:  # else it may be a column that is read row by row
        passages = passages[: source.first]
    if not any(passage.strip() for passage in passages):
        raise DataError(f"{rows.location}: field '{source.field}' holds no text in any of {len(passages)} rows")
    return Text(name, role, passages, rows)


def windows(text: Text, tokenizer: Tokenizer, length: int, limit: int | None = None) -> "torch.Tensor":
    """Cut a text into non-overlapping windows: joined, tokenised once, the rest dropped (LLM-Pruner).

    Args:
        text: the text.
        tokenizer: a transformers tokenizer; its special tokens stand once, where it puts them by default.
        length: tokens a window.
        limit: keep the first windows only.

    Returns:
        LongTensor [windows, length].

    Raises:
        DataError: the text is shorter than one window.
    """
    import torch

    ids = tokenizer(text.joined(), verbose=False)["input_ids"]  # verbose warns of texts longer than a context
    count = len(ids) // length
    if count == 0:
        raise DataError(f"text '{text.name}' has {len(ids)} tokens, too few for one window of {length}")
    count = count if limit is None else min(count, limit)
    return torch.tensor(ids[: count * length], dtype=torch.long).view(count, length)
