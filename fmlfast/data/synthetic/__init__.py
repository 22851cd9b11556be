"""Generates synthetic people and renders clips of them with ground truth."""
