"""Hierarchical autoencoders of images: their networks, priors and bounds."""
