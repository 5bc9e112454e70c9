# Snakemake runs this in the new environment, from the folder that it was started in: the clone.
make env VENV="$CONDA_PREFIX"
