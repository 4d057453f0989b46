from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

ROWS = [
    {"input_ids": [n % 50, 7, 8], "attention_mask": [1, 1, 1], "labels": n % 2} for n in range(16)
]
UNSEEN = [{**row, "input_ids": [row["input_ids"][0], 9, 8]} for row in ROWS[:4]]


def trainer(output_dir, rows=None, kind=Trainer):
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    )
    arguments = TrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    return kind(model=model, args=arguments, train_dataset=rows or ROWS, eval_dataset=UNSEEN)
