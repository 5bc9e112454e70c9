"""`qtuning explore`: one page that shows which samples and which tokens pruning kept, and what it saw of them."""
