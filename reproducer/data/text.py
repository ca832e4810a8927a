"""Texts: passages to calibrate and search on, and the windows that perplexity is measured over."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from reproducer.data import builtin
from reproducer.data.chat import Shape, shape_of
from reproducer.data.files import DataError
from reproducer.data.sources import Rows, Source, find_source
from reproducer.errors import UserError, nearest
from reproducer.tokenizing import opened, specials

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
        join: what stands between two passages: two line ends in LLM-Pruner's protocol (its `ppl_dataset`).
        begin, packed: as `Source` has them.
        shape: of rows that only a tokenizer makes text of: of chats.
    """

    name: str
    role: str
    passages: Sequence[str]
    rows: Rows
    join: str = "\n\n"
    begin: bool = False
    packed: bool = False
    shape: Shape | None = None

    def joined(self) -> str:
        """All passages as they are, joined."""
        return self.join.join(self.passages[:])  # [:] reads a column of the hub at once

    def read_by(self, tokenizer: Any) -> "Text":
        """The text as this tokenizer's model knows it: chats by its template."""
        if self.shape is None:
            return self
        return replace(self, passages=self.shape.texts(self.rows, tokenizer), shape=None)


def text_source(name: str, role: str) -> Source:
    """The source that a text's name stands for in a role, with nothing read: of the catalogue, of the hub, a file.

    Behind a `?` a name may say how the text is read: `my.jsonl?join=\\n`, `wikitext2?begin=each`, with `&` both; and
    which of its rows: `my.jsonl?rows=0-90%`.

    Raises:
        UserError: an unknown name (with the nearest right one), a role that the text cannot have, or a missing file.
    """
    name, _, how = name.partition("?")
    options = _options(how) if how else {}
    known = {entry.name: entry.sources[role] for entry in TEXTS.values() if role in entry.sources}
    if name in TEXTS and name not in known:
        raise UserError(
            f"text '{name}' cannot serve for {role}, only for {' and '.join(TEXTS[name].sources)}",
            f"those that can: {', '.join(sorted(known))}",
        )
    source = find_source("text", name, known, DEFAULT_SPLIT[role], names=TEXTS)
    return replace(source, packed=name not in TEXTS, **options)


def _options(how: str) -> dict[str, Any]:
    """What a name says of how its text is read."""
    chosen: dict[str, Any] = {}
    for part in how.split("&"):
        key, _, value = part.partition("=")
        if key == "join":
            chosen["join"] = value.replace("\\n", "\n").replace("\\t", "\t")
        elif (key, value) == ("begin", "each"):
            chosen["begin"] = True
        elif key == "rows" and (percent := re.fullmatch(r"(\d{1,2})-(\d{1,3})%", value)):
            low, high = chosen["part"] = int(percent[1]), int(percent[2])
            if not low < high <= 100:
                raise UserError(f"'{part}' names no rows", "for example rows=90-100%")
        else:
            raise UserError(f"a text has no option '{part}'", nearest(part, ["join=TEXT", "begin=each", "rows=0-90%"]))
    return chosen


def text_label(name: str) -> str:
    """The text's name in a table."""
    plain, _, how = name.partition("?")
    return TEXTS[plain].label + (f" ({how})" if how else "") if plain in TEXTS else name


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
    if source.part is not None:
        rows = rows.between(*source.part)
    join = source.join if source.join is not None else "" if source.id.endswith(".txt") else "\n\n"
    options: dict[str, Any] = {"join": join, "begin": source.begin, "packed": source.packed}
    if (shape := shape_of(rows, source.field)) is not None:
        return Text(name, role, (), rows, shape=shape, **options)
    passages = rows.strings(source.field)
    if source.first is not None:  # else it may be a column that is read row by row
        passages = passages[: source.first]
    if not any(passage.strip() for passage in passages):
        raise DataError(f"{rows.location}: field '{source.field}' holds no text in any of {len(passages)} rows")
    return Text(name, role, passages, rows, **options)


def windows(text: Text, tokenizer: Tokenizer, length: int, limit: int | None = None) -> "torch.Tensor":
    """Cut a text into non-overlapping windows: joined, tokenised once, the rest dropped (LLM-Pruner).

    Args:
        text: the text.
        tokenizer: a transformers tokenizer; what it puts before a text stands once, or, where the text's `begin` says
            so, before each window, of which it is a part; what it puts behind one is left out.
        length: tokens a window.
        limit: keep the first windows only.

    Returns:
        LongTensor [windows, length].

    Raises:
        DataError: the text is shorter than one window.
    """
    import torch

    text, first = text.read_by(tokenizer), []
    ids = opened(tokenizer)(text.joined(), verbose=False)["input_ids"]  # verbose warns of texts longer than a context
    if text.begin:
        before = specials(tokenizer)[0]
        own_begin = getattr(tokenizer, "bos_token_id", None)
        begins = before[0] if own_begin is None and before else own_begin
        if begins is None:
            raise DataError(f"text '{text.name}': this tokenizer has no token that begins a text", "leave out ?begin")
        first, ids = [begins], ids[len(before) :]
    own = length - len(first)
    count = len(ids) // own if own else 0
    if count == 0:
        raise DataError(f"text '{text.name}' has {len(ids)} tokens, too few for one window of {length}")
    count = count if limit is None else min(count, limit)
    cut = torch.tensor(ids[: count * own], dtype=torch.long).view(count, own)
    return torch.cat([torch.tensor([first] * count, dtype=torch.long), cut], dim=1) if first else cut
