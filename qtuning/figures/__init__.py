"""From the score store to figures: vector and PNG, each beside the data it shows. Reads files, never live objects."""
