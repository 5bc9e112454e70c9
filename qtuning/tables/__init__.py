"""From a summary to pages of tables, and the four renderings of a page. Begin with scores.py."""
