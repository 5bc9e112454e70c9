"""Train sets: sources, validation, templates, tokenising."""
