"""A search for one image at a time, and the judgements of its hits. `pipelines/serving/` puts it on HTTP."""

from eet.serving.feedback import Feedback, Judgement
from eet.serving.filtered_index import FilteredIndex
from eet.serving.image_search import Answer, Explanation, ImageSearch
from eet.serving.item_search import ItemSearch
from eet.serving.query import Box, Query, QueryEncoder

__all__ = ["Answer", "Box", "Explanation", "Feedback", "FilteredIndex", "ImageSearch", "ItemSearch", "Judgement", "Query", "QueryEncoder"]
