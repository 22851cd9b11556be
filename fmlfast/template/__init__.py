"""Defines the face template: mesh, masks, landmarks, expressions and deformation graph, at any subdivision level."""
