"""The status of experiments as plain lines."""

from qtuning.progress import duration
from qtuning.status.look import Status


def status_line(status: Status) -> str:
    """`mini: 7 of 19 cells done, 2 running, 1 failed, 9 to do; about 4 min left`"""
    if status.done == status.cells:
        return f"{status.name}: all {status.cells} cells done"
    waiting = status.cells - status.done - status.running - status.failed
    counts = [f"{status.done} of {status.cells} cells done", f"{status.running} running", f"{status.failed} failed"]
    parts = [f"{status.name}: {', '.join([*counts, f'{waiting} to do'])}"]
    if not status.at_work:
        parts.append("nothing is at work")
    if status.left is not None:
        basis = "" if status.left.measured else ", by the plan alone"
        when = "left" if status.at_work else "left once it goes on"
        parts.append(f"about {duration(status.left.seconds)} {when}{basis}")
    return "; ".join(parts)


def status_lines(status: Status) -> list[str]:
    """That line, then one for each job at work, each that failed and each that was stopped."""
    return [
        status_line(status),
        *(f"  {running.text()}" for running in status.runs),
        *(f"  failed: {ended.text()}" for ended in status.failures),
        *(f"  {ended.text()}" for ended in status.stopped),
    ]
