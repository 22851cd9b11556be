"""The fixed head: mesh, masks, landmarks, expressions and deformation graph, at any level of subdivision."""
