"""Exporting a trained network: the files, the model card, and reading an exported folder back."""
