"""The threshold explorer: one HTML file that shows, label by label, what a threshold costs."""

from thresher_training.explorer.data import explorer_data, write_explorer

__all__ = ["explorer_data", "write_explorer"]
