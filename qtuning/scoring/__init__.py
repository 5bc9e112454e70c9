"""What one forward without gradient says of each sample: perplexity, entropy, and its quadrant on the plane."""
