"""The adapter is loaded for inference, and trained in a function that is called by another."""

import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed


def tiny():
    set_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            pad_token_id=0,
        )
    )


def collate(rows):
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def first_round(folder):
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    get_peft_model(tiny(), lora).save_pretrained(folder)


def trainer_of(folder):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, 64, (32, 12), generator=generator).tolist()
    model = PeftModel.from_pretrained(tiny(), folder)
    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=f"{folder}/out",
            max_steps=8,
            learning_rate=1e-3,
            per_device_train_batch_size=4,
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        data_collator=collate,
    )


def main():
    with tempfile.TemporaryDirectory() as folder:
        first_round(folder)
        trainer_of(folder).train()


if __name__ == "__main__":
    main()
