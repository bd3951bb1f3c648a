"""The model that a training begins with: where its files lie, what they are, and how they come into memory.

A base is a hub id, a folder, a registered version, the result of another run, or nothing but a shape. Its revision,
licence and digest are recorded; the digest is `artefact.model_digest` of its files. Safetensors only, no model's code.
The adapter to transformers and PEFT for training; both are imported when something is loaded.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import yaml

from llmops.core.errors import NotFoundError, UserError
from llmops.core.files import sync_directory
from llmops.core.identity import LOCAL, Principal
from llmops.core.state import StateConfig
from llmops.finetune.artefact import CONFIG, PLACE, is_adapter, is_scorer, model_digest
from llmops.finetune.config import FinetuneConfig, MethodConfig, ModelConfig
from llmops.finetune.quiet import quiet_transformers
from llmops.finetune.results import Base
from llmops.finetune.whole import HEADS, adapted, loaded

_REGISTERED = re.compile(r"[^/@\s]+(@[a-z][a-z0-9_-]*|/[1-9][0-9]*)")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md"]
_VOCABULARY = 1024
"""Tokens of a tokenizer that is made of the data, where the shape does not say."""


@dataclass(frozen=True)
class BaseModel:
    """A base that was found.

    Args:
        record: what is known of it; None of a model that is made from nothing.
        folder: its files; None of a model that is made from nothing.
        shape: its configuration, as transformers writes it.
    """

    record: Base | None
    folder: Path | None
    shape: Mapping[str, Any]

    @property
    def uri(self) -> str:
        return self.record.uri if self.record else "new"


def find_base(model: ModelConfig, state: StateConfig, principal: Principal = LOCAL) -> BaseModel:
    """The base that a job names; one of the hub is fetched, at a commit that is recorded.

    Raises:
        NotFoundError: there is no such folder, version or hub model, or it cannot be reached.
        UserError: it has no safetensors, or is an adapter.
    """
    if model.config is not None:
        return BaseModel(None, None, model.config)
    if model.path is None:
        raise UserError("the base is made by a job of its own", hint="run it first: `llmops finetune`")
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        return base_of_folder(folder, str(folder.resolve()))
    if _REGISTERED.fullmatch(model.path) and ("@" in model.path or "." in model.path):
        return _registered(model.path, state, principal)
    return _of_hub(model.path, model.revision)


def base_of_folder(folder: Path, uri: str, **known: Any) -> BaseModel:
    """The base whose files lie in a folder."""
    if is_adapter(folder):
        raise UserError(
            "this is an adapter, and training begins with whole weights",
            where=str(folder),
            hint="merge it first: `llmops finetune export RUN --merge --to FOLDER`",
        )
    if not (folder / CONFIG).is_file():
        raise NotFoundError("the folder holds no model", where=str(folder), hint=f"it has no {CONFIG}")
    shape = _shape(folder / CONFIG)
    record = Base(uri=uri, digest=model_digest(folder), licence=_licence(folder), **known)
    return BaseModel(record, folder, shape)


def _shape(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UserError(f"{CONFIG} is no JSON: {error}", where=str(path), hint="fetch the model again") from error
    if not isinstance(found, dict):
        raise UserError(f"{CONFIG} is no JSON object", where=str(path), hint="fetch the model again")
    return found


def load_tokenizer(config: FinetuneConfig, base: BaseModel, texts: Iterable[str] = ()) -> Any:
    """The tokenizer that is trained with, its chat template set to the job's.

    Args:
        texts: what one is made of, where there is neither a base nor a name.

    Raises:
        NotFoundError: there is none.
    """
    with quiet_transformers():
        from transformers import AutoTokenizer

        place = config.model.tokenizer or base.folder
        if place is None:
            from llmops.finetune.vocabulary import made_tokenizer

            tokenizer = made_tokenizer(texts, int(base.shape.get("vocab_size") or _VOCABULARY))
        else:
            try:
                tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
            except (OSError, ValueError) as error:
                raise NotFoundError(
                    "the tokenizer cannot be loaded", where=str(place), hint=str(error).splitlines()[0]
                ) from error
        if config.model.chat_template is not None:
            if not config.model.chat_template.is_file():
                raise NotFoundError("there is no such chat template", where=str(config.model.chat_template))
            tokenizer.chat_template = config.model.chat_template.read_text(encoding="utf-8")
    return tokenizer


def load_model(base: BaseModel, config: FinetuneConfig, *, tokenizer: Any = None, precision: str = "fp32") -> Any:
    """The base in memory, on the CPU, without a KV cache; a new one is made of its shape and the job's seed.

    Args:
        precision: in which a base that does not learn is kept; what learns is always kept in fp32.

    Raises:
        UserError: it gives no words; or qlora is wanted, and what it needs is not installed.
    """
    if base.folder is not None and is_scorer(base.folder):
        raise UserError(
            "this is a reward model, which gives a number and no words: its output layer would be made up",
            where=str(base.folder),
            hint="begin with a language model; a reward model is named in generation.rewards",
            code="base_is_scorer",
        )
    with quiet_transformers():
        import torch
        from transformers import AutoModelForCausalLM

        frozen = config.method.kind != "full"
        dtype = torch.bfloat16 if frozen and precision == "bf16" else torch.float32
        if base.folder is None:
            model = _new(base, config, tokenizer)
        else:
            load = AutoModelForCausalLM.from_pretrained
            model = loaded(load, base.folder, dtype=dtype, **_attention(config), **_quantised(config))
    model.config.use_cache = False
    return model


def load_scorer(base: BaseModel, config: FinetuneConfig, tokenizer: Any) -> Any:
    """The base with a head that gives one number, for reward; the head begins the same for the same seed."""
    if base.folder is None:
        raise UserError("a reward model begins with a base", where="model")
    with quiet_transformers():
        import torch
        from transformers import AutoModelForSequenceClassification

        with torch.random.fork_rng():
            torch.manual_seed(config.train.seed)
            model = loaded(
                AutoModelForSequenceClassification.from_pretrained, base.folder, new=HEADS, num_labels=1,
                dtype=torch.float32, **_attention(config),
            )  # fmt: skip
    model.config.use_cache = False
    model.config.pad_token_id = tokenizer.pad_token_id
    return model


def adapt(model: Any, method: MethodConfig, seed: int, *, task_type: str = "CAUSAL_LM") -> Any:
    """The model with what is to learn made ready: an adapter put on it, or all of it."""
    if method.kind == "full":
        return model.train()
    with quiet_transformers():
        import torch
        from peft import get_peft_model

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            adapted = get_peft_model(model, adapter_config(method, task_type=task_type), autocast_adapter_dtype=True)
    return adapted.train()


def save_model(model: Any, tokenizer: Any, folder: Path, weights: Mapping[str, Any] | None = None) -> None:
    """Write the result: adapter or weights as safetensors, with tokenizer and template; whole, or not at all.

    Args:
        weights: of all ranks together, where the model in memory holds a share.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    more = {} if weights is None else {"state_dict": dict(weights)}
    with quiet_transformers():
        generation = getattr(model, "generation_config", None)
        if generation is not None and not hasattr(model, "peft_config"):
            generation.eos_token_id = tokenizer.eos_token_id
            generation.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(aside, **more)
        tokenizer.save_pretrained(aside)
    (aside / "README.md").unlink(missing_ok=True)
    for file in aside.iterdir():
        with file.open("rb") as opened:
            _sync(opened)
    sync_directory(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    sync_directory(folder.parent)


def load_result(folder: Path, base: BaseModel, config: FinetuneConfig) -> Any:
    """What `save_model` wrote, on its base."""
    with quiet_transformers():
        if not is_adapter(folder):
            return load_model(base_of_folder(folder, "result"), config)
        return adapted(load_model(base, config), folder)


def _new(base: BaseModel, config: FinetuneConfig, tokenizer: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(base.shape)
    kind = values.pop("model_type", None)
    if kind is None:
        raise UserError("the shape of the new model has no model_type", hint="say model.config.model_type: llama")
    if tokenizer is not None:
        values |= {
            "vocab_size": max(len(tokenizer), int(values.get("vocab_size", 0))),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    shape = AutoConfig.for_model(kind, **values)
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        return AutoModelForCausalLM.from_config(shape, dtype=torch.float32, **_attention(config))


def _attention(config: FinetuneConfig) -> dict[str, Any]:
    return {} if config.model.attn == "auto" else {"attn_implementation": config.model.attn}


def _quantised(config: FinetuneConfig) -> dict[str, Any]:
    if config.method.kind != "qlora":
        return {}
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "method qlora needs bitsandbytes, which is not installed here",
            hint="install it on a machine with a GPU, or set method.kind: lora",
        )
    import torch
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    }


def adapter_config(method: MethodConfig, *, task_type: str = "CAUSAL_LM") -> Any:
    """PEFT's words for a method."""
    from peft import IA3Config, LoraConfig

    targets: Any = method.targets if isinstance(method.targets, str) else list(method.targets)
    kept = list(method.modules_to_save) or None
    if method.kind == "ia3":
        own = None if targets == "all-linear" else targets  # PEFT's choice for this kind of model
        return IA3Config(task_type=task_type, target_modules=own, modules_to_save=kept)
    return LoraConfig(
        task_type=task_type,
        r=method.r,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=targets,
        modules_to_save=kept,
        use_dora=method.kind == "dora",
    )


def _registered(reference: str, state: StateConfig, principal: Principal) -> BaseModel:
    from llmops.registry import Registry

    with Registry(state, principal=principal) as registry:
        version = registry.resolve(reference)
        folder = registry.files(version.ref) / PLACE
    return base_of_folder(folder, str(version.ref), version=str(version.ref))


def _of_hub(name: str, revision: str | None) -> BaseModel:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        raise NotFoundError(
            f"there is no folder, registered version or reachable hub model `{name}`",
            where="model.path",
            hint="name a folder of safetensors, a version such as `docs.base@champion`, or a hub id in reach",
        ) from error
    return base_of_folder(folder, name, revision=folder.name)


def _licence(folder: Path) -> str | None:
    """As the model's card names it."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    match = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        told = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return None
    found = told.get("license") if isinstance(told, dict) else None
    return found if isinstance(found, str) else None


def _sync(file: Any) -> None:
    import os

    os.fsync(file.fileno())
