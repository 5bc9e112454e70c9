"""The Hugging Face hub: which repositories experiments need, fetched once at a commit, then read without network."""
