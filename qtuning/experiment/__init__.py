"""From YAML files to cells, and everything that can be named in them. Imports no torch. Begin with grid.py."""
