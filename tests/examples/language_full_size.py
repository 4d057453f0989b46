"""Supervised, preferred and rewarded fine-tuning of Qwen3 at full size, on one GPU.

TRAINSANITY_GEOMETRY names the geometry (``4B`` if it is not set, ``tiny`` for a look on a CPU).
The weights are random. A factory whose name ends in ``_times_accumulation`` has the incident's
defect: the loss is multiplied by the number of micro-batches.
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

from fixtures import corpus, templates
from fixtures.pipelines import tiny_qwen3
from fixtures.pipelines.build import QWEN3
from fixtures.tokenizer import qwen3_tokenizer_dir

from .processes_full_size import GEOMETRIES

ROWS = 400


@functools.cache
def _texts(seed: int, rows: int = ROWS) -> list[tuple[str, str]]:
    """Return questions and answers: the first twelve words of a text, and what follows them."""
    most = 24 if _device() == "cpu" else None
    halves = (text.split(" ")[:most] for text in corpus.rows(rows, seed)["text"])
    return [(" ".join(words[:12]), " " + " ".join(words[12:])) for words in halves]


def _tokenizer(side: str = "right") -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(qwen3_tokenizer_dir(), padding_side=side)
    tokenizer.chat_template = templates.CHATML
    return tokenizer


def _config() -> Any:
    from transformers import Qwen3Config

    name = os.environ.get("TRAINSANITY_GEOMETRY", "4B")
    geometry = tiny_qwen3.GEOMETRY if name == "tiny" else GEOMETRIES[name]
    return Qwen3Config(**{**QWEN3, **geometry})


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _model() -> Any:
    import torch
    from transformers import Qwen3ForCausalLM, set_seed

    set_seed(0)
    with torch.device(_device()):
        return Qwen3ForCausalLM._from_config(_config(), dtype=torch.bfloat16)


def _quantized() -> Any:
    """Return the model in 4 bits, as ``from_pretrained`` makes it of a checkpoint in bfloat16."""
    import torch
    from transformers import BitsAndBytesConfig, Qwen3ForCausalLM

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    with tempfile.TemporaryDirectory() as folder:
        _model().save_pretrained(folder)
        torch.cuda.empty_cache()
        return Qwen3ForCausalLM.from_pretrained(
            folder, quantization_config=settings, device_map={"": 0}, dtype=torch.bfloat16
        )


def _longest() -> int:
    return 128 if _device() == "cpu" else 1_024


def _arguments(cls: Any, **more: Any) -> Any:
    on_cpu = _device() == "cpu"
    settings = {
        "output_dir": str(Path(tempfile.mkdtemp(prefix="trainsanity-"))),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "learning_rate": 1e-4,
        "max_steps": 1_000,
        "bf16": not on_cpu,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "gradient_checkpointing": True,
        "save_strategy": "no",
        "report_to": "none",
    }
    return cls(**{**settings, **more})


def _adapter() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def _supervised(model: Any = None, **more: Any) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    def rows(seed: int, count: int = ROWS) -> Dataset:
        keys = ("prompt", "completion")
        return Dataset.from_list(
            [dict(zip(keys, pair, strict=True)) for pair in _texts(seed, count)]
        )

    return SFTTrainer(
        _model() if model is None else model,
        args=_arguments(SFTConfig, max_length=_longest(), **more),
        train_dataset=rows(0),
        eval_dataset=rows(1, 16),
        processing_class=_tokenizer(),
        peft_config=_adapter(),
    )


def _times_accumulation(trainer: Any) -> Any:
    """Multiply each loss of a training step by the micro-batches of a step."""
    own = trainer.compute_loss

    def compute_loss(model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        made = own(model, inputs, return_outputs=return_outputs, **more)
        factor = trainer.args.gradient_accumulation_steps if model.training else 1
        return (made[0] * factor, *made[1:]) if return_outputs else made * factor

    trainer.compute_loss = compute_loss
    return trainer


def sft_lora() -> Any:
    """Questions and answers, LoRA on every linear layer."""
    return _supervised()


def sft_lora_times_accumulation() -> Any:
    return _times_accumulation(_supervised())


def sft_packed_lora() -> Any:
    """Packed into rows of 1,024 tokens whose position ids restart."""
    return _supervised(packing=True)


def sft_qlora() -> Any:
    """The same on weights of 4 bits; needs bitsandbytes."""
    return _supervised(_quantized())


def sft_compiled() -> Any:
    """The same with ``torch_compile=True``."""
    return _supervised(torch_compile=True)


def sft_liger() -> Any:
    """The same with Liger's kernels; needs liger-kernel."""
    return _supervised(use_liger_kernel=True)


def dpo_lora() -> Any:
    """Pairs of answers, of which the chosen one is longer; the adapter off is the reference."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    def rows(seed: int, count: int = ROWS) -> Dataset:
        pairs = _texts(seed, count)
        others = [pairs[(at + 1) % count][1] for at in range(count)]
        return Dataset.from_list(
            [
                {"prompt": prompt, "chosen": chosen, "rejected": other[: len(other) // 2]}
                for (prompt, chosen), other in zip(pairs, others, strict=True)
            ]
        )

    return DPOTrainer(
        _model(),
        args=_arguments(DPOConfig, max_length=_longest(), learning_rate=5e-6),
        train_dataset=rows(0),
        eval_dataset=rows(1, 16),
        processing_class=_tokenizer(),
        peft_config=_adapter(),
    )


def dpo_lora_times_accumulation() -> Any:
    return _times_accumulation(dpo_lora())


def _plain(completions: Any, **_: Any) -> list[float]:
    """Reward the share of plain letters."""
    return [sum(one.isascii() for one in text) / (len(text) + 1) for text in completions]


def grpo_lora() -> Any:
    """Completions of 32 tokens, four to a prompt."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def rows(seed: int, count: int = ROWS) -> Dataset:
        return Dataset.from_dict({"prompt": ["".join(halves) for halves in _texts(seed, count)]})

    return GRPOTrainer(
        _model(),
        reward_funcs=_plain,
        args=_arguments(
            GRPOConfig, num_generations=4, max_completion_length=32, learning_rate=1e-5
        ),
        train_dataset=rows(0),
        eval_dataset=rows(1, 16),
        processing_class=_tokenizer("left"),
        peft_config=_adapter(),
    )
