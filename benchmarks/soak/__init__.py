"""Random faults while a micro experiment runs, the same command again after each, and the results compared."""
