"""Commands of the command line, one a module; cli.py registers them."""
