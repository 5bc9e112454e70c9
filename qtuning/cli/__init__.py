"""The commands: run.py makes results, draw.py draws them, look.py only looks. app.py puts them together."""
