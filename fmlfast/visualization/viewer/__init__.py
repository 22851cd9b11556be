"""Shows models, reconstructions, tracked videos and training runs in a browser, with viser.

Pictures of the heads are drawn here, by this project's renderer, and sent to the browser as they change: viser's own
meshes would get a film's tone curve instead of the skin's colours, and vanish for a moment at each change of them.
"""
