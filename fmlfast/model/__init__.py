"""The learned model: encoder, face model, and what it knows from landmarks (paper sections 3 and 4)."""
