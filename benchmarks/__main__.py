"""`python -m benchmarks`, on one thread: its processor time is what stays stable when neighbours load the machine."""

import os
import warnings

if __name__ == "__main__":
    # before torch is imported
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)  # peft calls what transformers has renamed
    from transformers.utils import logging

    logging.disable_progress_bar()
    from benchmarks.command import main

    main()
