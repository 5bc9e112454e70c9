"""`python -m benchmarks.scale`."""

from benchmarks.scale.command import main

main()
