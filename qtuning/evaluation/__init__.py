"""The only room that knows lm-eval."""
