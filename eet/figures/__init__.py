"""Pictures of results: hit panels, kept-token overlays, curves, and the self-contained HTML report."""

from eet.figures.curves import precision_recall_figure, save_png, search_time_figure, training_curves_figure
from eet.figures.kept_tokens import kept_tokens_overlay
from eet.figures.panels import hits_panel
from eet.figures.report import Block, Paragraph, Picture, Section, Table, render_report

__all__ = [
    "Block",
    "Paragraph",
    "Picture",
    "Section",
    "Table",
    "hits_panel",
    "kept_tokens_overlay",
    "precision_recall_figure",
    "render_report",
    "save_png",
    "search_time_figure",
    "training_curves_figure",
]
