"""`python -m mini_world generate` writes the world; `python -m mini_world pretrain` trains its base model."""

import argparse
import os
import sys
from pathlib import Path

from mini_world.writing import SEED, generate
from qtuning.errors import UserError


def main() -> None:
    """Read the arguments and run one of the two commands."""
    parser = argparse.ArgumentParser(prog="python -m mini_world", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    writing = commands.add_parser("generate", help="write the corpus, the fine-tuning set and the benchmarks (seconds)")
    writing.add_argument("--out", type=Path, required=True, help="folder to write")
    writing.add_argument("--seed", type=int, default=SEED, help="another seed is a world the shipped model ignores")
    writing.add_argument("--without-corpus", action="store_true", help="leave the corpus out, as the package does")

    training = commands.add_parser("pretrain", help="train the base model from scratch (an hour)")
    training.add_argument("--world", type=Path, required=True, help="folder that `generate` wrote")
    training.add_argument("--out", type=Path, required=True, help="folder of the base model")
    training.add_argument("--threads", type=int, default=2, help="CPU threads")
    training.add_argument(
        "--new-tokenizer",
        action="store_true",
        help="train one on this world, for worlds of other seeds; else the shipped one",
    )

    arguments = parser.parse_args()
    try:
        if arguments.command == "generate":
            generate(arguments.out, arguments.seed, with_corpus=not arguments.without_corpus)
        else:
            # OpenMP reads these when torch is imported.
            os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            from mini_world.pretrain import pretrain

            pretrain(arguments.world, arguments.out, threads=arguments.threads, new_tokenizer=arguments.new_tokenizer)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
