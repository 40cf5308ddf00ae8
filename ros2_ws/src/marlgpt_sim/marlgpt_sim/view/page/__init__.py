"""The page that browsers get: one HTML file, its style, and scripts as ES modules."""
