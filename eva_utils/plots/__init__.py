"""Figures from results. Each function returns its figure and neither shows nor saves it.

A notebook shows the figure that a cell ends with; ``figure.savefig(path)`` keeps it. Colours of text and axes are
those of the style in use, so that dark themes work.
"""
