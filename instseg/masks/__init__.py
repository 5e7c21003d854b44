"""Masks between a box's grid, the image, and COCO's run-length encoding."""
