"""GLUE: pre-trains an encoder of any kind on text and fine-tunes it on the nine tasks.

Usage::

    python tasks/glue.py pretrain --config tasks/configs/glue_pretrain_quick.yaml
    python tasks/glue.py finetune --config tasks/configs/glue_finetune_quick.yaml \\
        --model.pretrained runs/glue_pretrain_quick/sbm/seed1 --tasks [sst2,stsb]
    python tasks/glue.py finetune --config tasks/configs/sparsify.yaml --tasks [sst2] \\
        --model.encoder FOLDER --data.options.tokenizer FOLDER
    python tasks/glue.py results runs/glue_pretrain_quick runs/glue_finetune_quick
"""

import os
import sys

# Read when torch loads OpenMP: threads that wait by spinning slow a busy machine down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from sbmgraph.cli.glue import main

if __name__ == "__main__":
    sys.exit(main())
