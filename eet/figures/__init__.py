"""Pictures of results: hit panels, kept-token overlays, curves, and the self-contained HTML report."""

from eet.figures.kept_tokens import kept_tokens_overlay
from eet.figures.matches import Line, Side, matches_panel
from eet.figures.panels import hits_panel
from eet.figures.pareto import pareto_figure
from eet.figures.patch_similarity import patch_similarity_figure
from eet.figures.place_map import PlaceMap, place_map_figure, recall_over_radius_figure
from eet.figures.plots import save_png
from eet.figures.precision_recall import precision_recall_figure
from eet.figures.report import Block, Paragraph, Picture, Section, Table, render_report
from eet.figures.search_time import search_time_figure
from eet.figures.training_curves import training_curves_figure
from eet.figures.weight_curves import weight_curves_figure

__all__ = [
    "Block",
    "Line",
    "Paragraph",
    "Picture",
    "PlaceMap",
    "Section",
    "Side",
    "Table",
    "hits_panel",
    "kept_tokens_overlay",
    "matches_panel",
    "pareto_figure",
    "patch_similarity_figure",
    "place_map_figure",
    "precision_recall_figure",
    "recall_over_radius_figure",
    "render_report",
    "save_png",
    "search_time_figure",
    "training_curves_figure",
    "weight_curves_figure",
]
