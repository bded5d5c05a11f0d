"""What models are built of: distributions, bijections, layers, noising processes, solvers, samplers, encoders."""
