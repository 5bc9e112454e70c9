"""What dashboards show of finished cells and experiments (docs/tracking.md). Begin with cells.py."""
