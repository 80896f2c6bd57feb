"""The script that people write first: Trainer and a LoRA adapter by peft, rows from a JSON file. The rival of A-6.

python plain_script.py MODEL ROWS.jsonl FIRST_STEP
"""

import json
import sys
import tempfile
from pathlib import Path

from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class FirstStep(TrainerCallback):  # type: ignore[misc]
    """Says that the first optimizer step is done."""

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN003, ANN201
        """Write a line."""
        Path(sys.argv[3]).write_text("done\n")


def main() -> None:
    """Train."""
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))
    rows = [json.loads(line) for line in Path(sys.argv[2]).read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                use_cpu=True,
                max_steps=1000,
                gradient_accumulation_steps=2,
                report_to="none",
            ),
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(sys.argv[1])),
            callbacks=[FirstStep()],
        ).train()


if __name__ == "__main__":
    main()
