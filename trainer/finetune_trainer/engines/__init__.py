"""How gradients are made, added up over processes and applied: one engine a strategy, behind one small interface.

transformers.Trainer keeps the loop. accelerate's own DeepSpeed and FSDP are not used: on CPUs it leaves both out
without a word (accelerate/state.py: `not cpu`), so what is tested there would not be what runs on GPUs.
"""

from finetune_trainer.engines.choice import build_engine
from finetune_trainer.engines.engine import Engine, StateTensors

__all__ = ["Engine", "StateTensors", "build_engine"]
