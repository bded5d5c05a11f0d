"""What a generative model is: spec, condition, capabilities, likelihood, loss, randomness, checkpoint."""
