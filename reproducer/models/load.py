"""Loading a model folder: what `fetch` made, or any folder as `save_pretrained` writes it."""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproducer.errors import UserError, nearest
from reproducer.models.architecture import family_of, parameter_count
from reproducer.models.families import PRUNED, SUPPORTED
from reproducer.models.quantised import refuse_quantised_folder
from reproducer.models.quiet import quiet
from reproducer.models.random_weights import SEED, draw_model
from reproducer.models.tokenizer import load_tokenizer, within
from reproducer.models.weights import (
    ADAPTER,
    INDEX,
    refuse_adapter,
    refuse_other_shapes,
    refuse_pointer,
    some,
    stored_tensors,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LOCATION = "location.json"  # where the model lies, in the directory of one that was not copied
GENERATION = "generation_config.json"
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


def load_model(
    directory: str | Path, dtype: str = "auto", device: str | torch.device = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in evaluation mode on `device`, and its tokenizer (which has a padding token).

    Prints nothing, runs no code of the model's repository and leaves the random generators as they were.

    Args:
        directory: what `fetch` filled, or a model folder.
        dtype: of the weights and the computation; `auto`: what config.json says.

    Raises:
        UserError: files are missing or broken, or they are not a causal language model that transformers knows.
    """
    import torch

    if dtype not in DTYPES:
        raise UserError(f"unknown dtype '{dtype}'", nearest(dtype, DTYPES))
    folder = locate(Path(directory))
    config = read_config(folder)
    wanted: Any = (config.dtype or torch.float32) if dtype == "auto" else dtype
    wanted = getattr(torch, wanted) if isinstance(wanted, str) else wanted
    seed = folder / SEED
    model: Any
    if seed.is_file() and not any(folder.glob("*.safetensors")):  # a user's own file may have this name
        model = draw_model(config, json.loads(seed.read_text(encoding="utf-8"))["seed"], wanted, device)
    else:
        model = _read_model(folder, config, wanted)
    tokenizer = within(load_tokenizer(folder), model.get_input_embeddings().num_embeddings)
    _agree(model, tokenizer)
    return model.to(device).eval(), tokenizer


def _read_model(folder: Path, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The model with the weights of the folder's files, all of which must be there and fit, and nothing but them."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    tensors = stored_tensors(folder)
    refuse_quantised_folder(folder, tensors)
    if hasattr(config, "quantization_config"):  # left over: the weights are wide
        del config.quantization_config
    expected = {name: tuple(weight.shape) for name, weight in meta_model(config).named_parameters()}
    refuse_other_shapes(folder, tensors, expected)
    if (folder / ADAPTER).is_file():
        warnings.warn(f"{folder}: the weights are loaded without the adapter beside them ({ADAPTER})", stacklevel=4)
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    try:
        with quiet(), _alone(folder) as weights:
            model, report = from_pretrained(
                weights,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{folder}: the weights cannot be loaded: {_reason(error)}") from error
    model.name_or_path = model.config._name_or_path = str(folder)
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{folder}: {_count(missing)} of the model not in its weight files: {some(missing)}")
    if unexpected := sorted(report["unexpected_keys"]):
        message = f"{folder}: {_count(unexpected)} in its weight files not part of the model: {some(unexpected)}"
        warnings.warn(message, stacklevel=3)
    return model


@contextmanager
def _alone(folder: Path) -> Iterator[str]:
    """A folder with the weights and what configures them, as links: other files change what transformers loads."""
    with tempfile.TemporaryDirectory() as name:
        for path in folder.iterdir():
            if path.name in ("config.json", GENERATION, INDEX) or path.suffix == ".safetensors":
                (Path(name) / path.name).symlink_to(path.absolute())
        yield name


def meta_model(config: PreTrainedConfig | Mapping[str, Any]) -> PreTrainedModel:
    """The model of a configuration, or of what its config.json holds, without weights: on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        full = AutoConfig.for_model(**config) if isinstance(config, Mapping) else config
        return AutoModelForCausalLM.from_config(full, trust_remote_code=False)


def count_parameters(directory: str | Path) -> int:
    """How many parameters the model has, tied ones counted once, from its config alone: nothing is loaded."""
    return parameter_count(meta_model(read_config(locate(Path(directory)))))


def locate(directory: Path) -> Path:
    """The folder with the model's files: `directory` itself, or the one its location.json names."""
    pointer = directory / LOCATION
    if not pointer.is_file() or (directory / "config.json").is_file():  # a user's own file may have this name
        return directory
    folder = Path(json.loads(pointer.read_text(encoding="utf-8"))["path"])
    if not folder.is_dir():
        raise UserError(
            f"the model's folder {folder} is gone", f"bring it back, or delete {directory} and run again to fetch it"
        )
    return folder


def read_config(folder: Path) -> PreTrainedConfig:
    """The folder's config.json, of a causal language model that transformers knows and that can be pruned.

    Raises:
        UserError: there is none, it is not JSON, holds NaN or an infinity, or is of another kind of model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    path = folder / "config.json"
    if not path.is_file():
        if folder.is_dir():
            refuse_adapter(folder)
        raise UserError(f"{folder} is no model folder: it has no config.json")
    refuse_pointer(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no model's config: it holds a {type(raw).__name__}, not an object")
    for key, value in _numbers(raw):
        if not math.isfinite(value):
            raise UserError(f"{path}: {key} is {value}, not a number a model can have")
    kind = str(raw.get("model_type"))
    if kind.removeprefix(PRUNED) not in CONFIG_MAPPING_NAMES:
        raise UserError(
            f"{path}: model_type is {raw.get('model_type')!r}, which transformers does not know",
            f"models that bring their own code are not run; types that can be pruned: {SUPPORTED}",
        )
    try:
        with quiet():
            config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        family_of(config)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.hint) from None
    except Exception as error:  # config classes validate in their own ways
        raise UserError(f"{path}: transformers cannot read it: {_reason(error)}") from error
    padding = getattr(config, "pad_token_id", None)
    if padding is not None and not 0 <= padding < config.vocab_size:  # the row of no token: torch refuses it
        config.pad_token_id = None
    return config


def _agree(model: Any, tokenizer: Any) -> None:
    """Let generation stop where the tokenizer says: the first LLaMA conversions carry token ids of a draft."""
    settings = model.generation_config
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        settings.bos_token_id, settings.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    settings.pad_token_id = tokenizer.pad_token_id
    let_save(settings)


def let_save(settings: Any) -> None:
    """Mend generation settings that transformers reads, and refuses to write once anything in them has changed.

    A temperature or top_p beside which `do_sample` is not set means sampling: it is set then. What cannot be mended so
    is taken out, with a warning.
    """
    for mend in (lambda: None, lambda: settings.update(do_sample=True), lambda: _defaults(settings)):
        mend()
        try:
            with quiet():
                settings.validate(strict=True)
            return
        except ValueError as error:
            reason = error
    raise UserError(f"the model's generation settings cannot be written: {reason}", f"mend its {GENERATION}")


def _defaults(settings: Any) -> None:
    from transformers import GenerationConfig

    kept = {name: value for name, value in settings.to_diff_dict().items() if name.endswith("_token_id")}
    lost = sorted(settings.to_diff_dict().keys() - kept.keys() - {"transformers_version", "do_sample"})
    warnings.warn(f"generation settings that transformers cannot write are left out: {some(lost)}", stacklevel=5)
    vars(settings).update(vars(GenerationConfig(**kept)))


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every float below `value`, with the dotted path to it."""
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _numbers(item, f"{key}.{name}" if key else str(name))


def _reason(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _count(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
