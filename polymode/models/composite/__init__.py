"""Models built of models of other families: an autoencoder and a prior over its codes."""
