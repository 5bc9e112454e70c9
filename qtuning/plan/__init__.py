"""What experiments will cost, before anything is launched (docs/plan.md). Nothing here imports torch."""
