"""From evaluated cells to scores, statistics and tables. Reads files, never live objects."""
