"""Measures of a GGUF file in llama.cpp, through the package xllamacpp, which holds llama.cpp's own server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from reproducer.errors import UserError
from reproducer.models.gguf.types import INSTALL

FORCED = 1e6  # added to a logit: above any other
ALTERNATIVES = (1000, 10**7)  # of a token that are asked for: many, else all, which takes long


class LlamaCpp:
    """A model in llama.cpp, on the CPU.

    Args:
        context: tokens that it has room for.
        threads: that compute.

    Raises:
        UserError: xllamacpp is not installed, or llama.cpp does not load the file.
    """

    def __init__(self, path: str | Path, context: int, threads: int = 1) -> None:
        xllamacpp = library()
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx = context
        settings.n_parallel = 1
        settings.n_gpu_layers = 0
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.warmup = False
        settings.verbosity = 1  # errors: they say more than the exception does
        try:
            self._server = xllamacpp.Server(settings)
        except RuntimeError as error:
            raise UserError(f"llama.cpp does not load {path}: {error}") from None
        # Its loop starts some time after it is there; closed before that, it waits for the loop's end for ever.
        self._complete([0], 1)

    def losses(self, window: Sequence[int]) -> list[float]:
        """The loss of each token but the first, in nats.

        llama.cpp's server tells probabilities of what it writes. So a bias makes it write each token after those
        before it; the probability is the model's own, from before the bias.

        Raises:
            UserError: this version of the server does not do so.
        """
        losses = [self._written(window[:place], window[place]) for place in range(1, len(window))]
        # Of a token that ends within a character it tells nothing; then the probability is found beside another's.
        complete = [token for token, loss in zip(window[1:], losses, strict=True) if loss is not None]
        return [
            self._by_alternatives(window[: place + 1], complete, window[place + 1]) if loss is None else loss
            for place, loss in enumerate(losses)
        ]

    def _written(self, before: Sequence[int], token: int, alternatives: int = 1) -> Any:
        """The loss of `token` after those before it; with several alternatives those of the likeliest tokens, by token.

        None: the server tells nothing of it.
        """
        asked = {"logit_bias": [[token, FORCED]], "logprobs": alternatives, "n_probs": alternatives}
        written = self._complete(before, 1, cache_prompt=True, **asked)["choices"][0]["logprobs"]
        if written is None:
            return None
        (entry,) = written["content"]
        if entry["id"] != token:
            raise UserError(
                "llama.cpp's server does not write the token that a bias asks for", f"try another version: {INSTALL}"
            )
        if alternatives > 1:
            return {other["id"]: -float(other["logprob"]) for other in entry["top_logprobs"]}
        return -float(entry["logprob"])

    def _by_alternatives(self, before: Sequence[int], complete: Sequence[int], token: int) -> float:
        for alternatives in ALTERNATIVES if complete else ():
            losses = self._written(before, complete[0], alternatives)
            if token in losses:
                return float(losses[token])
        raise UserError(
            "llama.cpp's server does not tell the probability of every token", f"try another version: {INSTALL}"
        )

    def speed(self, prompt: Sequence[int], decode: int) -> tuple[float, float]:
        """Tokens a second of reading `prompt`, and of writing `decode` tokens after it."""
        times = self._complete(prompt, decode + 1, ignore_eos=True)["timings"]
        # the first of them comes out of the prompt's pass
        return len(prompt) / times["prompt_ms"] * 1000, decode / times["predicted_ms"] * 1000

    def chat(self, messages: list[dict[str, str]], tokens: int) -> str:
        """The greedy answer to messages, each with a `role` and its `content`, in the chat template of the file."""
        asked = {"messages": messages, "max_tokens": tokens, "temperature": 0.0}
        reply = self._checked(self._server.handle_chat_completions(asked))
        answer: str = reply["choices"][0]["message"]["content"]
        return answer

    def _complete(self, prompt: Sequence[int], tokens: int, **more: Any) -> dict[str, Any]:
        asked = {"prompt": [list(prompt)], "max_tokens": tokens, "temperature": 0.0, "cache_prompt": False, **more}
        return self._checked(self._server.handle_completions(asked))

    @staticmethod
    def _checked(reply: dict[str, Any]) -> dict[str, Any]:
        if "choices" not in reply:
            raise UserError(f"llama.cpp's server does not answer: {reply['error']['message']}")
        return reply


@lru_cache(maxsize=1)
def _opened(path: str, context: int, threads: int) -> LlamaCpp:
    return LlamaCpp(path, context, threads)


def losses(path: str, context: int, threads: int, window: Sequence[int]) -> list[float]:
    """`LlamaCpp.losses` of a file, which stays open in this process for the next call."""
    return _opened(path, context, threads).losses(window)


def speed(path: str, context: int, threads: int, prompt: Sequence[int], decode: int) -> tuple[float, float]:
    """`LlamaCpp.speed` of a file, which stays open in this process for the next call."""
    return _opened(path, context, threads).speed(prompt, decode)


def version() -> str:
    """Of the package, with its name. UserError: it is not installed."""
    return f"xllamacpp {library().__version__}"


def library() -> Any:
    """The package xllamacpp. UserError: it is not installed."""
    try:
        import xllamacpp
    except ImportError as error:
        raise UserError(f"GGUF files are measured in llama.cpp, which is not here: {error}", INSTALL) from None
    return xllamacpp
