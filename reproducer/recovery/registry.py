"""What a kind of recovery is, and which there are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from reproducer.registry import Registry
from reproducer.spec import Section


@dataclass(frozen=True)
class Job:
    """What a recovery gets to work with.

    Attributes:
        model: the (pruned) model, on its device; a kind may change it, its caller does not use it afterwards.
        tokenizer: the model's; not to be changed.
        directory: for the result's files; what an interrupted run of the same job left is still there.
        seed: everything random follows from it.
        progress: told steps done (with fractions), all steps, and what to say beside them.
        say: told what a person should read.
        dense: loads the unpruned base model, in evaluation mode on a device, by name, or on that of the model: a new
            one for every call, which nobody else keeps. None where there is none.
        layers: which layers of the dense model the pruned one still has, in order; None: all.
    """

    model: Any
    tokenizer: Any
    directory: Path
    seed: int
    progress: Callable[[float, float, str], None] = lambda done, total, text: None
    say: Callable[[str], None] = logging.getLogger(__name__).warning
    dense: Callable[..., Any] | None = None
    layers: Sequence[int] | None = None


class Recovery(Section):
    """Base of the kinds: a kind's fields are its parameters in a spec. Its module imports torch in functions only.

    Attributes:
        name: in specs.
        label: in tables.
        source: where it is described.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    source: ClassVar[str]

    def resolved(self, substitute: Callable[[Any, str], str]) -> Self:
        """With the defaults that are names written out, after `substitute` (`spec.substitute`) had its say."""
        return self

    def lengths(self) -> dict[str, int]:
        """Parameters that are tokens of one sequence, which has to fit into the model's context."""
        return {}

    def sources(self) -> dict[str, Any]:
        """What it reads beside the model, as JSON values for a stage's key. UserError: an unknown name."""
        return {}

    def fingerprints(self) -> dict[str, str]:
        """Today's fingerprint of each source, by its name."""
        return {}

    def train(self, job: Job) -> list[dict[str, Any]]:
        """Recovers `job.model` and writes what `apply` needs into `job.directory`; goes on with what is there.

        Returns:
            One {step, loss, learning_rate, examples} a step: steps count from 1, the mean loss of the step's batch is
            in nats a token, examples counts those seen so far.

        Raises:
            UserError: a parameter does not suit the model or the data, or training diverges.
        """
        raise NotImplementedError

    def apply(self, model: Any, directory: Path, merge: bool = False) -> Any:
        """`model`, as it was before training, with the result in `directory` active, in evaluation mode.

        The caller does not use `model` itself afterwards.

        Args:
            merge: return a plain model of `model`'s class, for `save_pretrained`.

        Raises:
            UserError: the result is missing or garbled, or does not fit the model.
        """
        raise NotImplementedError


RECOVERIES: Registry[type[Recovery]] = Registry("recovery", "reproducer.recovery", "reproducer.recoveries")


def register(kind: type[Recovery]) -> type[Recovery]:
    """Class decorator: the kind can be named in specs."""
    return RECOVERIES.add(kind.name, kind)
