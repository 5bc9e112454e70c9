"""What the Snakefile and the rules need of qtuning. No other room knows Snakemake."""
