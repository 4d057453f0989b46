from transformers import Trainer

from fixtures.pipelines.tiny_qwen3 import repaired


def build():
    t = repaired()
    t.args.output_dir = "out"
    return Trainer(
        model=t.model,
        args=t.args,
        train_dataset=t.train_dataset,
        eval_dataset=t.eval_dataset,
        data_collator=t.data_collator,
        processing_class=t.processing_class,
    )
