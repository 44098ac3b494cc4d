"""Training under sparse attention in TRL's own trainers: mixins for GRPOTrainer and SFTTrainer.

    from trl import GRPOTrainer
    from zipr1.trl import SparseGRPO, SparseSettings, efficiency

    class SparseGRPOTrainer(SparseGRPO, GRPOTrainer):
        pass

    SparseGRPOTrainer(..., reward_funcs=[correct, efficiency], sparse=SparseSettings())

Tested with TRL 1.16; `zipr1.Trainer` needs no TRL and has the accuracy constraint of the preset
`exact`, videos and a probe set, which TRL's trainers have not.
"""

from zipr1.trl.grpo import SparseGRPO, efficiency
from zipr1.trl.settings import SparseSettings
from zipr1.trl.sft import SparseSFT

__all__ = ["SparseGRPO", "SparseSFT", "SparseSettings", "efficiency"]
