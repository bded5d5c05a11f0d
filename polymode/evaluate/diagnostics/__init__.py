"""What is wrong with a model: collapse, memorisation, likelihood without quality, quality without diversity."""
