"""How good a model is: on clips with ground truth and on real ones."""
