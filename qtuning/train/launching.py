"""`accelerate launch -m qtuning.train`, without a second interpreter where accelerate would start just one process."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn


def launch(config: Path, threads: int, arguments: Sequence[str]) -> None:
    """Launch the training with accelerate's own reading of `config`; does not return if processes must be started.

    For one process accelerate's launcher sets environment variables and starts Python once more; that would import
    torch and accelerate a second time, and leave the training without a parent when the launcher is killed. Here the
    variables are set and the training goes on in this process.
    """
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    # Both launchers would share the default port when two cells train side by side; 0 lets each find a free one.
    options = ["--config_file", str(config), "--num_cpu_threads_per_process", str(threads), "--main_process_port", "0"]
    command = [*options, "-m", "qtuning.train", *arguments]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    several = args.use_deepspeed or args.use_fsdp or args.use_megatron_lm or args.multi_gpu or args.tpu
    if several or args.num_processes > 1 or args.num_machines > 1:
        os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", *command])
    _, environment = prepare_simple_launcher_cmd_env(args)
    os.environ.update(environment)
    from qtuning.train.cell import main

    main(arguments)


def run_as_worker(main: Callable[[], None]) -> NoReturn:
    """Run `main` in a process that a launcher started beside others, then leave; a failure leaves as usual.

    The threads of a gloo process group outlive `destroy_process_group` where DDP was used. One that lets go of a
    tensor while the interpreter is being torn down aborts the process ("terminate called without an active
    exception", pytorch/pytorch#179291), and a finished training would count as failed. So the interpreter is left
    standing: everything is written by then, and W&B runs are closed.
    """
    from torch import distributed

    main()
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
